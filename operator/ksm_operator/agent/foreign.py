"""Who a process is that may merge outside of the domain, read without any lock of its own."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ksm_operator.agent.placement import Placement, place
from ksm_operator.kernel import (
    KernelError,
    Mergeable,
    Process,
    is_marked,
    is_mergeable,
    read_cgroup,
    read_ksm_stat,
    read_merging_pages,
    read_stat,
    read_status,
)
from ksm_operator.kernel.procfs import ancestors, live_thread

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

YOUNG_SECONDS: Final = 0.3
"""A process is not judged before: it may be about to end (a probe), or not yet where it belongs."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A process of another domain, or of none.

    Attributes:
        process: who.
        command: its name.
        cgroup: its path in the memory hierarchy.
        placement: the pod that this is in; None for a process of the host.
    """

    process: Process
    command: str
    cgroup: str
    placement: Placement | None

    def is_in(self, domain: AbstractSet[str]) -> bool:
        """Tell whether its container is one of these cgroup paths."""
        return self.placement is not None and self.placement.container_path in domain

    def age(self) -> float:
        """Return seconds since its start."""
        return self.process.age()

    def descends_from(self, pid: int) -> bool:
        """Tell whether it is a child of that process, or of a child of it."""
        return pid in ancestors(self.process.pid)


def candidate(pid: int, controller: str) -> Candidate | None:
    """Return who has this pid; None for a kernel thread and where there is nobody.

    Args:
        pid: of a process.
        controller: of the memory hierarchy, as /proc/PID/cgroup names it.
    """
    try:
        stat = read_stat(pid)
        if stat.is_kernel_thread or (stat.is_zombie and live_thread(pid) is None):
            return None
        cgroup = read_cgroup(pid).get(controller, "")
    except KernelError:
        return None
    command = stat.comm.encode(errors="replace").decode()
    return Candidate(Process(pid, stat.start_time), command[:16], cgroup, place(cgroup))


def process_of(tid: int) -> int | None:
    """Return the pid of a thread's process; None if the thread has ended."""
    try:
        return int(read_status(tid)["Tgid"])
    except (KernelError, KeyError, ValueError):
        return None


@dataclass(frozen=True, slots=True)
class Question:
    """Whether a process merges.

    Attributes:
        process: who.
        closely: it was seen to ask for it, so a kernel that does not tell is not believed.
    """

    process: Process
    closely: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found.

    Attributes:
        merging: it is mergeable now.
        cpu_seconds: what it took to find out.
    """

    merging: bool
    cpu_seconds: float


def merges(question: Question) -> Answer:
    """Tell whether a process is mergeable now. May hang for as long as that process likes."""
    before = time.thread_time()
    merging = _merges(question)
    return Answer(merging, time.thread_time() - before)


def _merges(question: Question) -> bool:
    try:
        stat = read_ksm_stat(question.process)
        # Before 6.14 only counters tell, and of the last scan: nothing before the first.
        untold = question.closely and stat.merge_any is None
        if not (untold or is_mergeable(stat)):
            return False
        return is_marked(Mergeable(question.process, stat))
    except KernelError:
        return False


def has_merged(process: Process) -> bool:
    """Tell whether it holds merged pages, which cannot hang."""
    try:
        return bool(read_merging_pages(process))
    except KernelError:
        return False
