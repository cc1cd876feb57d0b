"""Plays a load: starts its containers by their times, has them enrolled, and ends them."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from benchmarks.governor.program import Program, command, family, huge, resident
from ksm_operator.kernel import KernelError, Postponed, Process, enrol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.governor.loads import Container
    from ksm_operator.kernel import Helper

ENROL_SECONDS: Final = 10.0


class Cast:
    """The containers of one load, played by their times in a thread.

    Attributes:
        came: how many were enrolled so far.
        went: how many have ended.
    """

    def __init__(self, containers: Sequence[Container], classes: Path, helper: Helper) -> None:
        self.came = 0
        self.went = 0
        self._classes = classes
        self._helper = helper
        self._live: dict[Container, Program] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._play, args=(tuple(containers),), name="load")

    def begin(self) -> None:
        """Start the first container, and the others when it is their time."""
        self._thread.start()

    def check(self) -> None:
        """Make sure that the load is what it should be.

        Raises:
            RuntimeError: a program failed.
        """
        if self._failure is not None:
            raise RuntimeError("the load cannot be played") from self._failure

    def close(self) -> None:
        """End everything."""
        self._stopped.set()
        while self._thread.is_alive():
            self._end_all()
            self._thread.join(0.05)
        self._end_all()

    def resident(self) -> int:
        """Return the bytes of memory of all its processes, shared pages counted for each."""
        return sum(resident(pid) for program in self._all() for pid in family(program.pid))

    def huge(self) -> int:
        """Return the bytes in huge pages of the containers that ask for them."""
        with self._lock:
            pids = [program.pid for one, program in self._live.items() if one.huge]
        return sum(huge(pid) for pid in pids)

    def _play(self, containers: tuple[Container, ...]) -> None:
        began = time.monotonic()
        events = [(one.starts, True, one) for one in containers]
        events += [(one.ends, False, one) for one in containers if one.ends is not None]
        try:
            # Of two at the same time, the one that ends makes room first.
            for at, starts, one in sorted(events, key=lambda event: event[:2]):
                if self._stopped.wait(max(0.0, began + at - time.monotonic())):
                    return
                if starts:
                    self._start(one)
                else:
                    self._end(one)
        except (RuntimeError, OSError, ValueError, KernelError) as error:
            if not self._stopped.is_set():
                self._failure = error

    def _start(self, one: Container) -> None:
        with self._lock:
            if self._stopped.is_set():
                return
            program = self._live[one] = Program(*command(one, self._classes))
        program.expect("started")
        enrol_patiently(program.process, self._helper)
        self.came += 1
        program.tell("go")
        program.expect("ready")

    def _end(self, one: Container) -> None:
        with self._lock:
            program = self._live.pop(one, None)
        if program is not None:
            program.end()
            self.went += 1

    def _all(self) -> list[Program]:
        with self._lock:
            return list(self._live.values())

    def _end_all(self) -> None:
        with self._lock:
            programs, self._live = list(self._live.values()), {}
        for program in programs:
            program.end()


def enrol_patiently(process: Process, helper: Helper) -> None:
    """Enrol a program that waits for that.

    Raises:
        KernelError: it cannot be enrolled.
    """
    deadline = time.monotonic() + ENROL_SECONDS
    while True:
        try:
            enrol(process, helper)
        except Postponed:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
