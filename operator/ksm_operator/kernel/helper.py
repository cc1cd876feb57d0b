"""The agent's side of the helper process: starts it, asks it, starts it anew when it dies.

Whoever traces must not die in the middle of a visit, so a small process of its own does it, which
shares neither the agent's memory limit nor its defects as far as that can be had.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from socket import socketpair
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.errors import KernelError, Postponed
from ksm_operator.kernel.helper_messages import (
    LineReader,
    decode_answer,
    decode_greeting,
    encode_requests,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ksm_operator.kernel.helper_messages import Request
    from ksm_operator.kernel.procfs import Process
    from ksm_operator.kernel.remote import Syscall, Visit

PACKAGE_ROOT: Final = Path(__file__).parents[2]

BOOTSTRAP: Final = """
import sys, types
for name in ("ksm_operator", "ksm_operator.kernel"):
    package = sys.modules[name] = types.ModuleType(name)
    package.__path__ = [f"{sys.argv[1]}/{name.replace('.', '/')}"]
from ksm_operator.kernel.helper_process import main
main()
"""
"""Imports what tracing needs and neither `site` nor the whole layer: that is 1 MiB on each node."""

BATCH: Final = 16
"""Requests in one message: saves the switch to and fro, and still answers soon."""

START_SECONDS: Final = 30.0

ANSWER_SECONDS: Final = 60.0
"""What the helper may take beside the calls themselves, a multiple of its own deadlines."""

TRIES: Final = 4
"""How often it may make the calls of one request when signals come in between."""

END_SECONDS: Final = 5.0

DEATHS_THAT_FAIL: Final = 3
FAILING_SECONDS: Final = 60.0
FAILING_PAUSE_SECONDS: Final = 5.0


class Deaths:
    """When the helper died, and what that means for the next start. Pure, with times passed in.

    Attributes:
        count: since the agent started.
    """

    def __init__(self) -> None:
        self.count = 0
        self._latest: deque[float] = deque(maxlen=DEATHS_THAT_FAIL)

    def record(self, now: float) -> None:
        """One more."""
        self.count += 1
        self._latest.append(now)

    def are_many(self, now: float) -> bool:
        """Three within the last minute: something is wrong that a restart does not mend."""
        return len(self._latest) == DEATHS_THAT_FAIL and now - self._latest[0] <= FAILING_SECONDS

    def pause(self, now: float) -> float:
        """Seconds until another helper may be started."""
        if not self.are_many(now):
            return 0.0
        return max(0.0, FAILING_PAUSE_SECONDS - (now - self._latest[-1]))


class _Running:
    """A helper that has greeted."""

    def __init__(self) -> None:
        ours, theirs = socketpair()
        self._connection = ours
        self._reader = LineReader(ours)
        with theirs:
            try:
                self._popen = subprocess.Popen(  # noqa: S603 - our own interpreter and program
                    [sys.executable, "-I", "-S", "-c", BOOTSTRAP, str(PACKAGE_ROOT)],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    # Not the agent's group: a signal for that one would end a visit.
                    start_new_session=True,
                )
            except OSError:
                ours.close()
                raise
        try:
            self.oom_score_adj: int = decode_greeting(self._read(START_SECONDS))
        except BaseException:
            self.end()
            raise

    @property
    def pid(self) -> int:
        return self._popen.pid

    def has_ended(self) -> bool:
        return self._popen.poll() is not None

    def send(self, message: bytes) -> None:
        self._connection.settimeout(ANSWER_SECONDS)
        self._connection.sendall(message)

    def answer(self, calls: Sequence[Syscall]) -> Visit | KernelError:
        seconds = ANSWER_SECONDS + TRIES * sum(call.seconds for call in calls)
        return decode_answer(self._read(seconds))

    def _read(self, seconds: float) -> bytes:
        line = self._reader.read(seconds)
        if not line:
            raise EOFError("it exited")
        return line

    def end(self, patience: float = 0.0) -> None:
        """Close the connection, which ends it, and after so many seconds kill it.

        Killing is safe for a target, whatever the helper is doing to it: the kernel lets go of it,
        and it goes on by its own way back (docs/design/remote-syscall.md).
        """
        self._connection.close()
        try:
            self._popen.wait(patience)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            # Not for ever: a process in state D dies later.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(END_SECONDS)


class Helper:
    """Makes processes run system calls as `Tracer` does, in a process that is hard to kill.

    It is started by `start` or the first call and ends when `close` is called or the agent is gone.
    Callers on any thread wait for each other.

    Attributes:
        on_answer: told what became of each visit, in the thread of whoever asked for it.
    """

    def __init__(self) -> None:
        self.on_answer: Callable[[Visit | KernelError], object] = lambda _: None
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self._deaths = Deaths()

    @property
    def pid(self) -> int | None:
        """Its process id; None before the first call and after a death."""
        running = self._running
        return None if running is None else running.pid

    @property
    def oom_score_adj(self) -> int | None:
        """-1000 where it could be had, so that the OOM killer passes over it; None as above."""
        running = self._running
        return None if running is None else running.oom_score_adj

    @property
    def deaths(self) -> int:
        """How often it died or had to be ended."""
        return self._deaths.count

    @property
    def failing(self) -> bool:
        """It died three times within a minute; it is started again, with pauses."""
        return self._deaths.are_many(time.monotonic())

    def start(self) -> None:
        """Start it unless it runs: it takes longer than a runtime needs to start a program.

        Where that fails, the next call tries again and tells why.
        """
        with self._lock:
            if self._running is not None or self._deaths.pause(time.monotonic()):
                return
            try:
                self._running = _Running()
            except KernelError:
                return
            except (OSError, EOFError, ValueError):
                self._bury()

    def call(self, process: Process, calls: Sequence[Syscall]) -> Visit:
        """Let the process make these system calls; see `Tracer.call` for what it raises.

        Raises:
            Postponed: also with the reason `HelperRestarted`: the helper died under this request,
                whose calls may have been made; and `HelperFailing`: it dies again and again.
        """
        (answer,) = self.call_many([(process, calls)])
        if isinstance(answer, KernelError):
            raise answer
        return answer

    def call_many(self, requests: Sequence[Request]) -> list[Visit | KernelError]:
        """Many processes' calls with few messages; one answer each, in the same order.

        Raises:
            Unsupported: the helper cannot work on this machine.
        """
        answers: list[Visit | KernelError] = []
        with self._lock:
            for first in range(0, len(requests), BATCH):
                answers += self._ask(requests[first : first + BATCH])
        for answer in answers:
            self.on_answer(answer)
        return answers

    def close(self) -> None:
        """End the helper; a later call starts a new one."""
        with self._lock:
            if self._running is not None:
                self._running.end(END_SECONDS)
                self._running = None

    def _ask(self, requests: Sequence[Request]) -> list[Visit | KernelError]:
        if self._running is not None and self._running.has_ended():
            self._bury()
        pause = self._deaths.pause(time.monotonic())
        if self._running is None and pause:
            detail = f"it died {self.deaths} times; another is started in {pause:.0f} s"
            return [Postponed(process.pid, "HelperFailing", detail) for process, _ in requests]
        answers: list[Visit | KernelError] = []
        try:
            if self._running is None:
                self._running = _Running()
            self._running.send(encode_requests(requests))
            for _, calls in requests:
                answers.append(self._running.answer(calls))
        except (OSError, EOFError, ValueError) as error:
            self._bury()
            detail = f"it ended in the middle of this ({str(error) or type(error).__name__})"
            unanswered = requests[len(answers) :]
            answers += [Postponed(one.pid, "HelperRestarted", detail) for one, _ in unanswered]
        return answers

    def _bury(self) -> None:
        self._deaths.record(time.monotonic())
        if self._running is not None:
            self._running.end()
            self._running = None
