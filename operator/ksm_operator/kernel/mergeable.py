"""Which processes of the node have asked ksmd for merging, whoever told them to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ksm_operator.kernel.errors import KernelError
from ksm_operator.kernel.ksm_stat import KsmStat, read_ksm_stat
from ksm_operator.kernel.procfs import PROC, Process, find_process, pids
from ksm_operator.kernel.smaps import read_vmas

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from ksm_operator.kernel.smaps import Vma


@dataclass(frozen=True, slots=True)
class Mergeable:
    """A process that ksmd scans while it runs.

    Attributes:
        process: who.
        stat: what the kernel says of it.
    """

    process: Process
    stat: KsmStat


def is_mergeable(stat: KsmStat) -> bool:
    """True if ksmd looks at this process.

    Kernels before 6.14 do not say; there a process counts once ksmd has looked at a page of it.
    The page counters alone say nothing of now: ksmd corrects them only when it scans again.
    """
    if stat.merge_any is None:
        return stat.rmap_items > 0 or bool(stat.merging_pages)
    return stat.merge_any or bool(stat.mergeable)


def is_marked(mergeable: Mergeable, *, proc: Path = PROC) -> bool:
    """Whether one of `mergeable_processes` has a range that ksmd may merge now.

    Before 6.14 its counters do not tell, which stay until ksmd comes round: its ranges are read.

    Raises:
        ProcessGone: it exited.
        KernelError: no right to look.
    """
    if mergeable.stat.merge_any is not None:
        return True
    return any(vma.is_mergeable for vma in read_vmas(mergeable.process, proc=proc))


def marks_everything(vmas: Iterable[Vma]) -> bool:
    """True if merging is on for the whole process, as its ranges show it.

    PR_SET_MEMORY_MERGE marks the stack and the program's own code too, which no program gives to
    madvise. A program that has inherited it shows it by its code alone on kernels without
    590c03ca6a3f (6.19 and stable backports): its stack was there before.
    """
    return any(vma.is_mergeable and (vma.name == "[stack]" or is_code(vma)) for vma in vmas)


def is_code(vma: Vma) -> bool:
    """True for code of a file, which has next to nothing that could merge."""
    return vma.name.startswith("/") and "ex" in vma.flags


def merges_everything(process: Process, *, proc: Path = PROC) -> bool:
    """Whether merging is on for the whole process, by a prctl of its own, its parent's or ours.

    Kernels before 6.14 do not say it in ksm_stat; there the ranges are read, which costs more.

    Raises:
        ProcessGone: it exited.
        KernelError: no right to read it.
    """
    flag = read_ksm_stat(process, proc=proc).merge_any
    return flag if flag is not None else marks_everything(read_vmas(process, proc=proc))


def mergeable_processes(*, proc: Path = PROC) -> Iterator[Mergeable]:
    """Every such process at about this moment, by one read of ksm_stat per process.

    A process that cannot be read (exited, or not ours to read) is passed over.
    """
    for pid in pids(proc=proc):
        try:
            process = find_process(pid, proc=proc)
            stat = read_ksm_stat(process, proc=proc)
        except KernelError:
            continue
        if is_mergeable(stat):
            yield Mergeable(process, stat)
