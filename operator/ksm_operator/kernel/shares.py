"""Who maps merged pages and who is charged for them, as values, and what that adds up to. Pure.

A merged page stays charged to the cgroup of the process whose page was kept, for as long as anybody
maps it, even if that process gave its own mapping up (mm/ksm.c never charges a page anew). So a
cgroup may pay for pages that none of its processes has: its phantom charge.

Large amounts are sampled by page frame: every process that maps a sampled page has it in its
sample, so who shares what is exact for the pages looked at, and the totals have a known error.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from heapq import merge
from itertools import groupby
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from array import array
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from ksm_operator.kernel.procfs import Process

NORMAL_95: Final = 1.96
NONE_SEEN_95: Final = 3.0
"""With nothing seen in a sample, there are up to so many sample steps of it (95 %)."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """An amount of memory.

    Attributes:
        size: bytes.
        error: half of the 95 % confidence interval in bytes; 0 for an exact figure.
    """

    size: int
    error: int = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """What it took to find out.

    Attributes:
        scanned_bytes: address space of which the page table was read.
        frames: merged mappings looked at one by one.
        seconds: time.
    """

    scanned_bytes: int
    frames: int
    seconds: float


@dataclass(frozen=True, slots=True)
class SharedPages:
    """Merged pages that are alike: the same payer, the same mappings.

    Attributes:
        payer: inode of the cgroup that is charged, as /proc/kpagecgroup has it: the nearest one
            alive if that cgroup was removed; 0 for none.
        mappers: processes of the survey that map each of these pages, and how many times.
        elsewhere: further mappings of each page, by processes outside of the survey.
        pages: how many there are; of a sample, those in the sample.
    """

    payer: int
    mappers: tuple[tuple[Process, int], ...]
    elsewhere: int
    pages: int

    @property
    def mappings(self) -> int:
        """Mappings of one of the pages by processes of the survey."""
        return sum(times for _, times in self.mappers)


@dataclass(frozen=True, slots=True)
class Survey:
    """Who maps and who pays, for some processes.

    Attributes:
        shared: their merged pages.
        every: one page of so many was looked at; 1 for all of them.
        page_size: bytes of a page.
        gone: processes that exited meanwhile; their pages are not counted.
        cost: what it took.
        told_bytes: merged memory of these processes as the kernel counts it in smaps, where it does
            not mark single pages so that one could be sure of each; None where it does.
    """

    shared: tuple[SharedPages, ...]
    every: int
    page_size: int
    gone: frozenset[Process]
    cost: Cost
    told_bytes: int | None = None

    @property
    def doubtful_bytes(self) -> int:
        """Merged memory that may be missing here, or be here wrongly, beyond a sample's error.

        More than 0 only where merged pages had to be told by other marks than the kernel's own.
        """
        if self.told_bytes is None:
            return 0
        found = self.amount((each.mappings, each.pages) for each in self.shared)
        return max(0, abs(found.size - self.told_bytes) - found.error)

    def amount(self, weights: Iterable[tuple[int, int]]) -> Estimate:
        """Bytes of so many pages of a weight each, (weight, pages), with the sample's error."""
        total = squares = 0
        for weight, pages in weights:
            total += weight * pages
            squares += weight * weight * pages
        return estimate(total, squares, self.every, self.page_size)


def estimate(total: float, squares: float, every: int, page_size: int) -> Estimate:
    """What there is of something, from a sample of it.

    The variance of the sum is estimated from what was seen (Horvitz and Thompson, 1952).

    Args:
        total: pages seen, by units that came into the sample each by itself with a chance of 1 in
            `every`.
        squares: the sum of the squares of the pages of each unit.
        every: see `total`.
        page_size: bytes of a page.
    """
    if every == 1:
        return Estimate(round(total * page_size))
    deviation = math.sqrt(every * (every - 1) * squares)
    error = NORMAL_95 * deviation if total else NONE_SEEN_95 * every
    return Estimate(round(total * every * page_size), math.ceil(error * page_size))


@dataclass(frozen=True, slots=True)
class Share:
    """Who pays for what a process, or the processes of a cgroup, have merged.

    Attributes:
        merged: their mappings of merged pages: what they would need without sharing.
        paid: distinct merged pages that they map and their cgroup is charged for.
        unpaid: distinct merged pages that they map at others' expense.
        phantom: charged to their cgroup, mapped by others only. Complete if every mergeable
            process of the node was surveyed.
    """

    merged: Estimate
    paid: Estimate
    unpaid: Estimate
    phantom: Estimate


def share_of(survey: Survey, processes: Collection[Process], inodes: Collection[int]) -> Share:
    """The share of some processes, which live in the cgroups of these inodes.

    Args:
        survey: of at least these processes.
        processes: all that live in the cgroup and below, or a single one of them: its phantom
            charge is then what its cgroup pays for and it does not map itself.
        inodes: of the cgroup and of all below it, see `cgroup_inodes`.
    """
    merged: list[tuple[int, int]] = []
    paid: list[tuple[int, int]] = []
    unpaid: list[tuple[int, int]] = []
    phantom: list[tuple[int, int]] = []
    for each in survey.shared:
        own = sum(times for process, times in each.mappers if process in processes)
        pays = each.payer in inodes
        if own:
            merged.append((own, each.pages))
            (paid if pays else unpaid).append((1, each.pages))
        elif pays:
            phantom.append((1, each.pages))
    return Share(*(survey.amount(part) for part in (merged, paid, unpaid, phantom)))


def phantom_of(survey: Survey, homes: Mapping[Process, Collection[int]]) -> Estimate:
    """What all cgroups together are charged for pages that none of their own processes maps.

    Args:
        survey: of every process that may have merged pages.
        homes: inodes of the cgroup of each process and of all above it.
    """
    return survey.amount(
        (1, each.pages)
        for each in survey.shared
        if not any(each.payer in homes.get(process, ()) for process, _ in each.mappers)
    )


def charged_elsewhere(survey: Survey, inodes: Collection[int]) -> dict[int, Estimate]:
    """Charges to other cgroups than these, by inode.

    Given the inodes of all cgroups in which a process lives, these are the charges that removed
    cgroups left behind, by the nearest cgroup above that is still there.
    """
    pages: Counter[int] = Counter()
    for each in survey.shared:
        if each.payer not in inodes:
            pages[each.payer] += each.pages
    return {payer: survey.amount([(1, count)]) for payer, count in pages.items()}


def group_pages(
    found: dict[Process, array[int]],
    payers: Sequence[int],
    counts: Sequence[int],
) -> list[SharedPages]:
    """Put pages together that have the same payer and the same mappings.

    Args:
        found: frames of merged pages that each process maps, in order, repeated as often as it
            maps them.
        payers: inode of the cgroup that each frame is charged to, in the order of the frames.
        counts: mappings of each frame, by whomever, in the same order.
    """
    processes = list(found)
    streams = (_tagged(found[process], index) for index, process in enumerate(processes))
    pages: Counter[tuple[int, tuple[tuple[int, int], ...], int]] = Counter()
    groups = groupby(merge(*streams), key=lambda pair: pair[0])
    for (_, pairs), payer, count in zip(groups, payers, counts, strict=True):
        mappers = tuple((index, len(list(same))) for index, same in groupby(p[1] for p in pairs))
        known = sum(times for _, times in mappers)
        pages[payer, mappers, max(0, count - known)] += 1
    return [
        SharedPages(
            payer, tuple((processes[index], times) for index, times in mappers), elsewhere, count
        )
        for (payer, mappers, elsewhere), count in sorted(pages.items())
    ]


def _tagged(frames: Iterable[int], index: int) -> Iterator[tuple[int, int]]:
    return ((frame, index) for frame in frames)
