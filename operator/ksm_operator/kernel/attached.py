"""A thread that we trace: stopping it, stepping it, and leaving it as it was found.

Nothing in here knows the machine's registers; the machine module (see :mod:`.machine`) says how to
give them back, and `leave` does so before it lets go.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel import ptrace
from ksm_operator.kernel.errors import KernelError, Postponed, ProcessGone
from ksm_operator.kernel.procfs import Process, is_alive, read_stat, read_status
from ksm_operator.kernel.ptrace import Stop, StopKind

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STOP_SECONDS: Final = 0.5
"""How long a thread may take to stop, or to reach the call, before the visit is called off."""

RUNNABLE_SECONDS: Final = 5.0
"""How long a thread gets that would stop if it had a processor.

The kernel has ended its call by then, and if nobody looks it sees an EINTR or a short result.
"""

RESCUE_SECONDS: Final = 5.0
"""How long a thread that does not come back gets before the tracing thread gives it up."""


class ThreadUnsuitable(KernelError):  # noqa: N818 - names what happened, as in errors.py
    """This thread turned out not to serve; another one may. Nothing was changed."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class StillAttached(KernelError):  # noqa: N818 - names what happened, as in errors.py
    """The kernel will only let go of the thread when the tracing thread exits."""

    def __init__(self, message: str, reason: str = "NoProgress") -> None:
        super().__init__(message)
        self.reason = reason


class Attached:
    """A thread from the seize to the detach.

    Attributes:
        process: whose thread it is.
        tid: its thread id.
        proc: the proc file system.
        give_back: puts the thread's own registers back, given the signal that it is let go with
            (or 0); set before the first one is changed, and None while there is nothing to give
            back.
        held: the kernel has it as ours; from the seize until it is let go or gone.
    """

    def __init__(self, process: Process, tid: int, proc: Path) -> None:
        self.process = process
        self.tid = tid
        self.proc = proc
        self.give_back: Callable[[int], None] | None = None
        self.held = False

    def seize(self, options: int) -> None:
        """Attach; the thread runs on.

        Args:
            options: PTRACE_O_*.

        Raises:
            ProcessGone: it exited.
            ThreadUnsuitable: this thread cannot be attached to.
            OSError: EINVAL when the kernel does not know an option.
        """
        try:
            ptrace.request(ptrace.PTRACE_SEIZE, self.tid, 0, options)
            self.held = True
        except ProcessLookupError as error:
            if not is_alive(self.process, proc=self.proc):
                raise ProcessGone(self.process.pid) from error
            raise ThreadUnsuitable("Exiting", f"thread {self.tid}") from error
        except PermissionError as error:
            if not is_alive(self.process, proc=self.proc):
                raise ProcessGone(self.process.pid) from error
            status = read_status(self.process.pid, proc=self.proc)
            if status.get("TracerPid", "0") != "0":
                raise ThreadUnsuitable("Traced", f"by process {status['TracerPid']}") from error
            raise ThreadUnsuitable(
                "PtraceDenied", "CAP_SYS_PTRACE is needed, and no Yama or LSM rule against it"
            ) from error

    def is_ours(self) -> bool:
        """True if the id is still a thread of this process: from the seize on it stays so."""
        try:
            leader = read_stat(self.process.pid, proc=self.proc)
            read_stat(self.process.pid, self.tid, proc=self.proc)
        except ProcessGone:
            return False
        return leader.start_time == self.process.start_time

    def stop(self, undo_eintr: Callable[[int], None]) -> None:
        """Stop it; signals that come first are delivered.

        Args:
            undo_eintr: called in every stop, with the signal that is delivered next or 0. A thread
                that is traced is stopped by signals that its program ignores, too, and its call
                would end with EINTR for one of which it never hears.

        Raises:
            Postponed: job control has stopped it, or it is becoming another program.
            ProcessGone: it exited.
            ThreadUnsuitable: this thread exited.
            StillAttached: it does not stop.
        """
        ptrace.request(ptrace.PTRACE_INTERRUPT, self.tid)
        last = time.monotonic() + RUNNABLE_SECONDS
        deadline = time.monotonic() + STOP_SECONDS
        while True:
            stop = self.wait(deadline - time.monotonic())
            if stop is None:
                if self._is_runnable() and time.monotonic() < last:
                    deadline = time.monotonic() + STOP_SECONDS
                    continue
                raise StillAttached(f"thread {self.tid} did not stop in time")
            if stop.kind is StopKind.INTERRUPTED:
                undo_eintr(0)
                return
            if stop.kind is StopKind.GROUP_STOP:
                self.leave()
                raise Postponed(self.process.pid, "Stopped")
            if stop.kind is StopKind.EXEC:
                # What was read of its memory before the stop is another program's.
                self.leave()
                raise Postponed(self.process.pid, "Exec", "it became another program")
            if stop.kind is StopKind.SIGNAL:
                undo_eintr(stop.signal)
                # It goes on: what was true of it here is not what it is left with later.
                self.give_back = None
            ptrace.request(ptrace.PTRACE_CONT, self.tid, 0, stop.signal)

    def _is_runnable(self) -> bool:
        try:
            return read_stat(self.process.pid, self.tid, proc=self.proc).state == "R"
        except ProcessGone:
            return False

    def step(self, seconds: float) -> None:
        """On to the next entry or exit of a system call.

        Args:
            seconds: how long that may take.

        Raises:
            Postponed: a signal came (it was delivered, after the registers were given back), or
                nothing did.
            ProcessGone: it exited.
            ThreadUnsuitable: this thread exited.
            StillAttached: it does not come back.
        """
        ptrace.request(ptrace.PTRACE_SYSCALL, self.tid)
        stop = self.wait(seconds)
        if stop is None:
            # A frozen cgroup, or a call that takes too long: stop it once more and go home.
            ptrace.request(ptrace.PTRACE_INTERRUPT, self.tid)
            stop = self.wait(RESCUE_SECONDS)
            if stop is None:
                raise StillAttached(f"thread {self.tid} does not come back")
            self.leave(stop.signal)
            raise Postponed(self.process.pid, "NoProgress", f"nothing for {seconds} s")
        if stop.kind is not StopKind.SYSCALL:
            self.leave(stop.signal)
            reason = "SignalArrived" if stop.kind is StopKind.SIGNAL else "Stopped"
            raise Postponed(self.process.pid, reason)

    def wait(self, seconds: float) -> Stop | None:
        """The next stop; None when it does not come in time.

        Raises:
            ProcessGone: the thread was the last one.
            ThreadUnsuitable: it exited, others live on.
            StillAttached: it took another id in an exec.
        """
        try:
            stop = ptrace.wait_stop(self.tid, seconds)
        except ChildProcessError as error:
            raise StillAttached(f"thread {self.tid} vanished in an exec") from error
        if stop is not None and stop.kind is StopKind.GONE:
            self.held = False
            if not is_alive(self.process, proc=self.proc):
                raise ProcessGone(self.process.pid)
            raise ThreadUnsuitable("Exiting", f"thread {self.tid}")
        return stop

    def leave(self, signal: int = 0) -> None:
        """Give the registers back, deliver a signal if one is pending, and let go."""
        if self.give_back is not None:
            self.give_back(signal)
            self.give_back = None
        ptrace.request(ptrace.PTRACE_DETACH, self.tid, 0, signal)
        self.held = False

    def leave_after(self, error: OSError) -> None:
        """Leave although the kernel refused a request.

        Raises:
            StillAttached: it refuses this too.
        """
        try:
            self.leave()
        except OSError:
            raise StillAttached(f"thread {self.tid}: {error}") from error
