"""One visit to a thread: stop it, let it make our system calls, put everything back, let it go.

This is the course of a visit on every machine; how registers are handled is the machine's
(:mod:`.machine`). See docs/design/remote-syscall.md for the method and what it cannot do.
"""

from __future__ import annotations

import contextlib
import gc
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ksm_operator.kernel.attached import Attached, StillAttached
from ksm_operator.kernel.errors import KernelError, Postponed, ProcessGone
from ksm_operator.kernel.procfs import Process, is_alive
from ksm_operator.kernel.threads import wait_for_moment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from ksm_operator.kernel.alarm import Alarm
    from ksm_operator.kernel.machine import Caller, Machine
    from ksm_operator.kernel.threads import Candidate


@dataclass(frozen=True, slots=True)
class Syscall:
    """A system call that a target shall make.

    It may be made twice when a signal interrupts the visit, so it has to be idempotent.

    Attributes:
        name: as the kernel calls it.
        arguments: at most six, signed or unsigned.
        seconds: how long the call itself may take.
    """

    name: str
    arguments: tuple[int, ...]
    seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class Visit:
    """What a visit brought.

    Attributes:
        results: one per call; negative numbers are errno values.
        tid: the thread that made the calls.
        caught_in: the system call it waited in, or `user code`.
        stopped_ns: from our interrupt to the detach, on our clock.
        safeguard: what the thread would have fallen back on if we had died: `SignalFrame` (it
            returns to its own state by itself) or `LegalOutcome` (its call answers 0, which its
            caller must expect at any time).
    """

    results: tuple[int, ...]
    tid: int
    caught_in: str
    stopped_ns: int
    safeguard: str = ""


def visit(
    process: Process,
    candidate: Candidate,
    calls: Sequence[Syscall],
    *,
    machine: Machine,
    options: int,
    alarm: Alarm,
    abandoned: Callable[[], bool],
    proc: Path,
) -> Visit:
    """Let one thread of a process make system calls.

    Args:
        process: whose memory the calls are for.
        candidate: which of its threads.
        calls: in this order, in one stop.
        machine: handles the registers.
        options: PTRACE_O_* for the seize.
        alarm: of the calling thread.
        abandoned: asked after the seize, which may have waited long behind an exec: True if nobody
            waits for the result any more.
        proc: the proc file system.

    Raises:
        ProcessGone: it exited meanwhile.
        ThreadUnsuitable: another thread may serve.
        Postponed: not now (a signal came, it is being stopped or traced).
        Refused: a 32-bit task.
        StillAttached: the calling thread must exit for the kernel to let go of the target.
    """
    target = Attached(process, candidate.tid, proc)
    caller = machine.caller(target, candidate)
    # From the seize on any signal may stop it before our interrupt does.
    caller.note_call()
    target.seize(options)
    try:
        return _visit(
            target, caller, candidate, calls, machine=machine, alarm=alarm, abandoned=abandoned
        )
    except (ProcessGone, StillAttached):
        raise
    except KernelError as error:
        if target.held:
            # Something could not be read in between; only the end of this thread lets go of it now.
            raise StillAttached(f"thread {target.tid}: {error}") from error
        raise


def _visit(
    target: Attached,
    caller: Caller,
    candidate: Candidate,
    calls: Sequence[Syscall],
    *,
    machine: Machine,
    alarm: Alarm,
    abandoned: Callable[[], bool],
) -> Visit:
    """What comes after the seize."""
    process, proc = target.process, target.proc
    if abandoned():
        raise StillAttached(f"thread {target.tid} came too late")
    # All that can be read while the thread runs is read before it stands still for us.
    ours = target.is_ours()
    if ours:
        caller.before_interrupt()
        seen = wait_for_moment(process, candidate, machine.names, proc=proc)
        if seen is None:
            # It cannot be let go without being stopped but by the end of its tracer.
            raise StillAttached(f"thread {target.tid} stays where it may not be stopped", "Busy")
        caller.blocked_in = seen.blocked_in
    with alarm.running(), _no_collection(), _ahead_of_others():
        if ours:
            caller.note_call()
        started = time.monotonic_ns()
        try:
            target.stop(caller.undo_eintr)
            if not ours:
                target.leave()
                raise ProcessGone(process.pid)
            if abandoned():
                # Nobody would put on record what it did.
                target.leave()
                raise Postponed(process.pid, "AttachBlocked")
            results = caller.make(calls)
            target.leave()
        except OSError as error:
            # ESRCH: killed while it was stopped, and the kernel has let go of it.
            if not is_alive(process, proc=proc):
                raise ProcessGone(process.pid) from error
            target.leave_after(error)
            raise Postponed(process.pid, "PtraceFailed", str(error)) from error
        stopped_ns = time.monotonic_ns() - started
    return Visit(results, target.tid, caller.caught_in(), stopped_ns, caller.safeguard())


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Python does not look for garbage, which takes longer than a stop should."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextlib.contextmanager
def _ahead_of_others() -> Iterator[None]:
    """The calling thread runs before all others, where it may (CAP_SYS_NICE).

    A pod that asks for little CPU gets little of it on a busy node, and the target would stand
    still for as long as we wait for ours.
    """
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        # Also for root, in a cgroup that has no share of real time (CONFIG_RT_GROUP_SCHED).
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)
