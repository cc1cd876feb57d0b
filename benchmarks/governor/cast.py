"""Plays a load: starts its containers by their times, has them enrolled, and ends them."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from benchmarks.governor.pages import Pages, read_pages
from benchmarks.governor.program import Program, command, family, resident
from ksm_operator.kernel import KernelError, Postponed, Process, enrol
from support import kernel

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.governor.cgroups import Cgroups
    from benchmarks.governor.loads import Container
    from ksm_operator.kernel import Helper

ENROL_SECONDS: Final = 10.0


class Cast:
    """The containers of one load, played by their times in a thread.

    Attributes:
        came: how many were enrolled so far.
        went: how many have ended.
        news: set whenever a container waits to be enrolled; whoever watches `cgroups` clears it.
    """

    def __init__(
        self,
        containers: Sequence[Container],
        classes: Path,
        cgroups: Cgroups,
        helper: Helper | None,
    ) -> None:
        """Prepare.

        Args:
            containers: whom to play.
            classes: where the JVM's program is.
            cgroups: makes a cgroup for each.
            helper: enrols each; None if somebody who watches `cgroups` does.
        """
        self.came = 0
        self.went = 0
        self.news = threading.Event()
        self._classes = classes
        self._cgroups = cgroups
        self._helper = helper
        self._live: dict[Container, Program] = {}
        self._paths: dict[Container, str] = {}
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

    def cgroups(self) -> list[str]:
        """Return the cgroups of the containers that run, as /proc/PID/cgroup has them."""
        with self._lock:
            return list(self._paths.values())

    def resident(self) -> int:
        """Return the bytes of memory of all its processes, shared pages counted for each."""
        with self._lock:
            programs = list(self._live.values())
        return sum(resident(pid) for program in programs for pid in family(program.pid))

    def pages(self) -> Pages:
        """Return what pages its processes have; of huge ones, where a container asks for them."""
        with self._lock:
            programs = list(self._live.items())
        merged = huge = 0
        for one, program in programs:
            for pid in family(program.pid):
                found = read_pages(pid)
                merged += found.merged
                huge += found.huge if one.huge else 0
        return Pages(merged, huge)

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
        words, variables = command(one, self._classes)
        path = self._cgroups.make()
        with self._lock:
            if self._stopped.is_set():
                return
            inside = self._cgroups.inside(path, words)
            program = self._live[one] = Program(inside, variables)
        program.expect("started")
        # Whom it has started by now stands for the outside.
        self._cgroups.put_outside(pid for pid in family(program.pid) if pid != program.pid)
        with self._lock:
            self._paths[one] = path
        if self._helper is not None:
            enrol_patiently(program.process, self._helper)
        else:
            self.news.set()
            self._wait_for_enrolment(program)
        self.came += 1
        program.tell("go")
        program.expect("ready")

    def _wait_for_enrolment(self, program: Program) -> None:
        deadline = time.monotonic() + ENROL_SECONDS
        while not kernel.merge_any(program.pid):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{program.pid} was not enrolled within {ENROL_SECONDS:g} s")
            if self._stopped.wait(0.005):
                return

    def _end(self, one: Container) -> None:
        with self._lock:
            program = self._live.pop(one, None)
            self._paths.pop(one, None)
        if program is not None:
            program.end()
            self.went += 1

    def _end_all(self) -> None:
        with self._lock:
            programs, self._live, self._paths = list(self._live.values()), {}, {}
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
