"""Merging by ranges: for kernels without the prctl, and for processes that it would hurt.

`MADV_MERGEABLE` marks ranges that exist; what the process maps later is not marked, and neither
fork's child nor exec's program is visited by itself. So it is repeated as the process grows, and
what was marked is kept as a list, because the kernel does not tell our marks from the program's.
"""

from __future__ import annotations

import errno
import mmap
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.errors import RemoteCallFailed
from ksm_operator.kernel.procfs import PROC, Process
from ksm_operator.kernel.ranges import Range, common, without
from ksm_operator.kernel.remote import Syscall
from ksm_operator.kernel.smaps import LOCKED, USERFAULTFD, Vma, read_vmas

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from ksm_operator.kernel.tracer import RemoteCalls

MADV_MERGEABLE: Final = getattr(mmap, "MADV_MERGEABLE", 12)

CALLS_PER_VISIT: Final = 64
"""Calls in one stop: each takes 1 to 2 microseconds."""

MOST_RANGES: Final = 4096
"""Ranges of one process that are marked and kept on record, the fullest first."""

SPARSE_FROM_BYTES: Final = 1 << 30
SPARSE_SHARE: Final = 16
"""A range of this size of which less than a sixteenth is populated is a reservation.

Before 6.18 ksmd looks at every address of it, again and again.
"""

NOT_MERGEABLE: Final = frozenset({"sh", "ms", "io", "pf", "de", "mm", "ht", "dp", "ss"})
"""Flags of ranges that ksmd passes over (vma_ksm_compatible, mm/ksm.c), and shadow stacks."""

HUGE: Final = "hg"


def may_be_marked(vma: Vma, *, split_huge_pages: bool) -> bool:
    """True for populated anonymous private memory that merging does not harm."""
    anonymous = vma.name in ("", "[heap]") or vma.name.startswith("[anon:")
    if not anonymous or vma.is_mergeable or vma.anonymous_bytes == 0:
        return False
    if vma.flags & (NOT_MERGEABLE | USERFAULTFD | {LOCKED}) or vma.has_high_flags:
        return False
    if not split_huge_pages and (HUGE in vma.flags or vma.huge_bytes):
        return False
    return vma.size < SPARSE_FROM_BYTES or vma.anonymous_bytes * SPARSE_SHARE >= vma.size


def choose(
    vmas: Sequence[Vma], ours: Sequence[Range] = (), *, split_huge_pages: bool = False
) -> tuple[Range, ...]:
    """Ranges to mark: whole ones, so that none is split, the fullest first if there are too many.

    A range that we marked and that is not marked any more was withdrawn by the program (or is a
    new mapping in its place, which the kernel does not tell apart): it is left alone.

    Args:
        vmas: the ranges of the process now.
        ours: what was marked by us before.
        split_huge_pages: take ranges with huge pages too; merging splits them.
    """
    candidates = [vma for vma in vmas if may_be_marked(vma, split_huge_pages=split_huge_pages)]
    candidates.sort(key=lambda vma: -vma.anonymous_bytes)
    most = max(0, MOST_RANGES - len(ours))
    wanted = [Range(vma.start, vma.end) for vma in candidates[:most]]
    return without(wanted, ours)


def mark(process: Process, tracer: RemoteCalls, ranges: Sequence[Range]) -> None:
    """Mark ranges mergeable, as far as they are still mapped.

    Raises:
        ProcessGone: it exited.
        Postponed: no thread of it can make the calls at this moment; some ranges may be done.
        RemoteCallFailed: the kernel refused for another reason than what is mapped there.
    """
    for first in range(0, len(ranges), CALLS_PER_VISIT):
        batch = ranges[first : first + CALLS_PER_VISIT]
        calls = [Syscall("madvise", (each.start, each.size, MADV_MERGEABLE)) for each in batch]
        for each, answer in zip(batch, tracer.call(process, calls).results, strict=True):
            # ENOMEM: part of it is not mapped any more; EINVAL: it is something else now.
            if answer < 0 and answer not in (-errno.ENOMEM, -errno.EINVAL):
                call = f"madvise({each.start:#x}, MADV_MERGEABLE)"
                raise RemoteCallFailed(process.pid, call, -answer)


def restore_own(
    process: Process, tracer: RemoteCalls, own: Iterable[Range], *, proc: Path = PROC
) -> None:
    """Mark again what the program had marked itself, after a release took all marks away.

    What it unmapped since stays away; what it mapped in the same place is marked with the rest,
    because the kernel does not tell the two apart.

    Raises:
        As `mark`.
    """
    mapped = [
        Range(vma.start, vma.end)
        for vma in read_vmas(process, proc=proc)
        if not vma.is_mergeable and not vma.flags & NOT_MERGEABLE
    ]
    mark(process, tracer, common(own, mapped))
