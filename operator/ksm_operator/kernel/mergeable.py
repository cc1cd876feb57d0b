"""Which processes of the node have asked ksmd for merging, whoever told them to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ksm_operator.kernel.errors import KernelError
from ksm_operator.kernel.procfs import PROC, KsmStat, Process, find_process, pids, read_ksm_stat

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


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
