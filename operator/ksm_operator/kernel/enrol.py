"""Switching merging on in a process that is running."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from ksm_operator.kernel.errors import KernelError, Refused, RemoteCallFailed, Unsupported
from ksm_operator.kernel.exclusions import SkipReason, why_not
from ksm_operator.kernel.procfs import PROC, Process, check_alive, read_ksm_stat
from ksm_operator.kernel.remote import Syscall

if TYPE_CHECKING:
    from pathlib import Path

    from ksm_operator.kernel.remote import Visit
    from ksm_operator.kernel.tracer import RemoteCalls

PR_SET_MEMORY_MERGE: Final = 67
PR_GET_MEMORY_MERGE: Final = 68


@dataclass(frozen=True, slots=True)
class Enrolled:
    """Merging was off in this process and is now on, by us.

    Attributes:
        process: who.
        visit: which thread made the call, and how long it stood still.
    """

    process: Process
    visit: Visit


@dataclass(frozen=True, slots=True)
class AlreadyMergeable:
    """Merging was on before we came; nothing was changed.

    Attributes:
        process: who.
        by: `Prctl` (the process, an ancestor, or an earlier enrolment of ours) or `Madvise`.
    """

    process: Process
    by: Literal["Prctl", "Madvise"]


def set_merge(*, on: bool, seconds: float = 5.0) -> Syscall:
    """The call that switches merging on or off for the whole process (Linux 6.4)."""
    return Syscall("prctl", (PR_SET_MEMORY_MERGE, int(on), 0, 0, 0), seconds)


def get_merge() -> Syscall:
    """The call that asks whether it is on; it says nothing of madvise."""
    return Syscall("prctl", (PR_GET_MEMORY_MERGE, 0, 0, 0, 0))


def enrol(
    process: Process, tracer: RemoteCalls, *, proc: Path = PROC
) -> Enrolled | AlreadyMergeable:
    """Make ksmd merge this process's memory, and read back that it will.

    Children made after this inherit it. Nothing else of the process changes.

    Args:
        process: who.
        tracer: makes the process run the call.
        proc: the proc file system.

    Raises:
        ProcessGone: it exited.
        Postponed: no thread of it can make the call at this moment; try again.
        Refused: it is excluded; the reason is a `SkipReason`.
        Unsupported: the kernel is older than 6.4 or has no KSM.
        RemoteCallFailed: the kernel refused (out of memory).
    """
    check_alive(process, proc=proc)
    before = read_ksm_stat(process, proc=proc)
    if before.merge_any:
        return AlreadyMergeable(process, "Prctl")
    reason = why_not(process, proc=proc)
    if reason is SkipReason.ALREADY_MERGEABLE:
        by_prctl = read_ksm_stat(process, proc=proc).merge_any
        return AlreadyMergeable(process, "Prctl" if by_prctl else "Madvise")
    if reason is not None:
        raise Refused(process.pid, reason)
    if before.merge_any is not None:
        visit = tracer.call(process, [set_merge(on=True)])
        check_answer(process, "prctl(PR_SET_MEMORY_MERGE, 1)", visit.results[0])
        shown = read_ksm_stat(process, proc=proc).merge_any
    else:
        # Before 6.14 only the process itself can ask.
        visit = tracer.call(process, [get_merge(), set_merge(on=True), get_merge()])
        asked, answer, now = visit.results
        if asked == 1:
            return AlreadyMergeable(process, "Prctl")
        check_answer(process, "prctl(PR_SET_MEMORY_MERGE, 1)", answer)
        shown = now == 1
    if not shown:
        raise KernelError(
            f"process {process.pid} took the call but merging is off: did it exec meanwhile?"
        )
    return Enrolled(process, visit)


def check_answer(process: Process, call: str, answer: int) -> None:
    """Turn the kernel's answer into an error of ours.

    Raises:
        Unsupported: the kernel does not know the call.
        RemoteCallFailed: it refused.
    """
    if answer >= 0:
        return
    if answer == -errno.EINVAL and call.startswith("prctl"):
        raise Unsupported("this kernel does not know PR_SET_MEMORY_MERGE: Linux 6.4 with KSM is")
    raise RemoteCallFailed(process.pid, call, -answer)
