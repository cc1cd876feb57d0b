"""Merging by ranges: for kernels without the prctl, and for processes that it would hurt.

`MADV_MERGEABLE` marks ranges that exist; what the process maps later is not marked, and neither
fork's child nor exec's program is visited by itself. So it is repeated as the process grows, and
what was marked is kept as a list, because the kernel does not tell our marks from the program's.
"""

from __future__ import annotations

import errno
import mmap
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.errors import Postponed, RemoteCallFailed
from ksm_operator.kernel.procfs import PROC, Process, page_size
from ksm_operator.kernel.remote import Syscall
from ksm_operator.kernel.smaps import LOCKED, USERFAULTFD, Vma, read_vmas

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from ksm_operator.kernel.tracer import RemoteCalls

MADV_MERGEABLE: Final = getattr(mmap, "MADV_MERGEABLE", 12)
MADV_UNMERGEABLE: Final = getattr(mmap, "MADV_UNMERGEABLE", 13)

CALLS_PER_VISIT: Final = 64
"""Calls in one stop: each takes 1 to 2 microseconds."""

MOST_RANGES: Final = 4096
"""Ranges marked in one go, the fullest first."""

STEP_BYTES: Final = 2 << 20
"""Address space given back in one stop: at most so much is copied."""

SPARSE_FROM_BYTES: Final = 1 << 30
SPARSE_SHARE: Final = 16
"""A range of this size of which less than a sixteenth is populated is a reservation.

Before 6.18 ksmd looks at every address of it, again and again.
"""

NOT_MERGEABLE: Final = frozenset({"sh", "ms", "io", "pf", "de", "mm", "ht", "dp", "ss"})
"""Flags of ranges that ksmd passes over (vma_ksm_compatible, mm/ksm.c), and shadow stacks."""

HUGE: Final = "hg"


@dataclass(frozen=True, slots=True, order=True)
class Range:
    """Addresses of a process, page-aligned.

    Attributes:
        start: first address.
        end: first address after it.
    """

    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes of address space."""
        return self.end - self.start


def own_ranges(vmas: Iterable[Vma]) -> tuple[Range, ...]:
    """The ranges that are marked mergeable now."""
    return joined(Range(vma.start, vma.end) for vma in vmas if vma.is_mergeable)


def joined(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The same addresses in as few ranges as possible, in order."""
    result: list[Range] = []
    for each in sorted(ranges):
        if result and each.start <= result[-1].end:
            result[-1] = Range(result[-1].start, max(result[-1].end, each.end))
        elif each.size > 0:
            result.append(each)
    return tuple(result)


def common(some: Iterable[Range], others: Iterable[Range]) -> tuple[Range, ...]:
    """Addresses that are in both."""
    first, second = joined(some), joined(others)
    result: list[Range] = []
    i = j = 0
    while i < len(first) and j < len(second):
        start = max(first[i].start, second[j].start)
        end = min(first[i].end, second[j].end)
        if start < end:
            result.append(Range(start, end))
        if first[i].end <= second[j].end:
            i += 1
        else:
            j += 1
    return tuple(result)


def without(some: Iterable[Range], others: Iterable[Range]) -> tuple[Range, ...]:
    """Addresses of the first that are not in the second."""
    removed = joined(others)
    result: list[Range] = []
    first = 0
    for each in joined(some):
        start = each.start
        while first < len(removed) and removed[first].end <= start:
            first += 1
        for hole in removed[first:]:
            if hole.start >= each.end:
                break
            if hole.start > start:
                result.append(Range(start, hole.start))
            start = hole.end
        if start < each.end:
            result.append(Range(start, each.end))
    return tuple(result)


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
    vmas: Sequence[Vma], ours: Iterable[Range] = (), *, split_huge_pages: bool = False
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
    wanted = [Range(vma.start, vma.end) for vma in candidates[:MOST_RANGES]]
    return without(wanted, ours)


def advise(
    process: Process, tracer: RemoteCalls, ranges: Sequence[Range], *, proc: Path = PROC
) -> tuple[Range, ...]:
    """Mark ranges mergeable; put them on record before, and keep what this returns.

    Returns:
        What of them is mergeable afterwards; the rest was unmapped or replaced meanwhile.

    Raises:
        ProcessGone: it exited.
        Postponed: no thread of it can make the calls at this moment; some ranges may be done.
        RemoteCallFailed: the kernel refused for another reason than what is mapped there.
    """
    _make(process, tracer, ranges, MADV_MERGEABLE)
    return common(own_ranges(read_vmas(process, proc=proc)), ranges)


def _make(process: Process, tracer: RemoteCalls, ranges: Sequence[Range], advice: int) -> None:
    for first in range(0, len(ranges), CALLS_PER_VISIT):
        batch = ranges[first : first + CALLS_PER_VISIT]
        calls = [Syscall("madvise", (each.start, each.size, advice)) for each in batch]
        for each, answer in zip(batch, tracer.call(process, calls).results, strict=True):
            # ENOMEM: part of it is not mapped any more; EINVAL: it is something else now.
            if answer < 0 and answer not in (-errno.ENOMEM, -errno.EINVAL):
                raise RemoteCallFailed(process.pid, f"madvise({each.start:#x}, {advice})", -answer)


@dataclass(frozen=True, slots=True)
class GivenBack:
    """How far giving back came.

    Attributes:
        left: ranges of ours that are still mergeable; none when all is done.
        reason: why, PascalCase: `NoHeadroom`, or that of a `Postponed`; None when done.
    """

    left: tuple[Range, ...]
    reason: str | None


def give_back(
    process: Process,
    tracer: RemoteCalls,
    ranges: Iterable[Range],
    headroom: Callable[[], int | None],
    *,
    proc: Path = PROC,
) -> GivenBack:
    """Undo `advise` for exactly these ranges, in steps; ranges the program marked stay as they are.

    Args:
        process: who.
        tracer: makes the process run the calls.
        ranges: what `advise` returned.
        headroom: asked before every step; bytes that the process's cgroups and the node can take
            now, or None for no limit.
        proc: the proc file system.

    Raises:
        ProcessGone: it exited, and holds nothing any more.
        RemoteCallFailed: the kernel refused a call for another reason than memory.
    """
    ours = joined(ranges)
    try:
        reason = _unmark(process, tracer, steps(read_vmas(process, proc=proc), ours), headroom)
    except Postponed as error:
        reason = error.reason
    left = common(own_ranges(read_vmas(process, proc=proc)), ours)
    return GivenBack(left, reason or ("StillMergeable" if left else None))


def steps(vmas: Iterable[Vma], ours: Sequence[Range]) -> Iterator[tuple[Range, int]]:
    """The parts of `ours` that are marked, in pieces, each with the bytes that it can cost."""
    for vma in vmas:
        if not vma.is_mergeable:
            continue
        # Kernels before 6.6 do not say what is merged, and pages of zeroes never count.
        most = vma.anonymous_bytes + page_size()
        first = max(0, bisect_right(ours, Range(vma.start, vma.start)) - 1)
        for each in ours[first:]:
            if each.start >= vma.end:
                break
            end = min(vma.end, each.end)
            for start in range(max(vma.start, each.start), end, STEP_BYTES):
                step = Range(start, min(start + STEP_BYTES, end))
                yield step, min(step.size, most)


def _unmark(
    process: Process,
    tracer: RemoteCalls,
    pieces: Iterable[tuple[Range, int]],
    headroom: Callable[[], int | None],
) -> str | None:
    """Returns why it ended early; None when it did not."""
    for piece, worst in pieces:
        room = headroom()
        if room is not None and worst > room:
            return "NoHeadroom"
        _make(process, tracer, [piece], MADV_UNMERGEABLE)
    return None


def restore_own(
    process: Process, tracer: RemoteCalls, own: Iterable[Range], *, proc: Path = PROC
) -> tuple[Range, ...]:
    """Mark again what the program had marked itself, after a release took all marks away.

    What it unmapped since stays away; what it mapped in the same place is marked with the rest,
    because the kernel does not tell the two apart.

    Returns:
        What is marked afterwards.

    Raises:
        ProcessGone: it exited.
        Postponed: not at this moment.
    """
    mapped = [
        Range(vma.start, vma.end)
        for vma in read_vmas(process, proc=proc)
        if not vma.is_mergeable and not vma.flags & NOT_MERGEABLE
    ]
    return advise(process, tracer, common(own, mapped), proc=proc)
