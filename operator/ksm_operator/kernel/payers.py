"""Who pays for merged memory: which cgroup each merged page is charged to, and who maps it.

A merged page stays charged to the cgroup of the process whose page was kept, for as long as anybody
maps it, even if that process gave its own mapping up (mm/ksm.c never charges a page anew). So a
cgroup may pay for pages that none of its processes has: its phantom charge.

Everything is read from /proc/PID/pagemap, /proc/kpageflags, /proc/kpagecgroup and /proc/kpagecount
(Documentation/admin-guide/mm/pagemap.rst) while the processes run on: the figures are of about this
moment, and a page that was freed or reused in between counts as it was read.

Large ones are sampled by page frame: every process that maps a sampled page has it in its sample,
so who shares what is exact for the pages looked at, and the totals have a known error.
"""

from __future__ import annotations

import math
import os
import time
from array import array
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from heapq import merge
from itertools import groupby
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.cgroupfs import walk
from ksm_operator.kernel.errors import KernelError, ProcessGone
from ksm_operator.kernel.frames import (
    BLOCK_PAGES,
    KPF_KSM,
    anonymous_frames,
    open_node_file,
    open_pagemap,
    read_words,
    sample,
)
from ksm_operator.kernel.procfs import PROC, Process, page_size, read_ksm_stat
from ksm_operator.kernel.smaps import read_vmas
from ksm_operator.kernel.steps import run

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
    from pathlib import Path

    from ksm_operator.kernel.cgroupfs import Hierarchy
    from ksm_operator.kernel.smaps import Vma

SAMPLED_PAGES: Final = 1 << 16
"""Merged mappings that a sample aims at: an error of about 1 %, for 0.3 s of CPU."""

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
    """

    shared: tuple[SharedPages, ...]
    every: int
    page_size: int
    gone: frozenset[Process]
    cost: Cost

    def amount(self, weights: Iterable[tuple[int, int]]) -> Estimate:
        """Bytes of so many pages of a weight each, (weight, pages), with the sample's error.

        Every page was sampled by itself with a chance of 1 in `every`, so the variance of the sum
        is estimated from the pages seen (Horvitz and Thompson, 1952).
        """
        total = squares = 0
        for weight, pages in weights:
            total += weight * pages
            squares += weight * weight * pages
        if self.every == 1:
            return Estimate(total * self.page_size)
        deviation = math.sqrt(self.every * (self.every - 1) * squares)
        error = NORMAL_95 * deviation if total else NONE_SEEN_95 * self.every
        return Estimate(total * self.every * self.page_size, math.ceil(error * self.page_size))


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


def survey_payers(
    processes: Iterable[Process], *, every: int | None = None, proc: Path = PROC
) -> Survey:
    """Find out who maps the merged pages of these processes, and who pays for them.

    Holds 8 bytes for each mapping looked at. Costs about 0.2 s of CPU for each GiB of addresses in
    ranges that have merged pages, and 5 us for each mapping looked at.

    Args:
        processes: whose pages; each once.
        every: look at one page of so many; 1 for all. By default as many as it takes to look at
            about `SAMPLED_PAGES` mappings: all of them up to 256 MiB.
        proc: where procfs is mounted.

    Raises:
        KernelError: not permitted: CAP_SYS_ADMIN, and root's view of /proc, are needed.
        Unsupported: the kernel does not tell (CONFIG_PROC_PAGE_MONITOR, CONFIG_MEMCG).
    """
    return run(survey_steps(processes, every=every, proc=proc))


def survey_steps(
    processes: Iterable[Process], *, every: int | None = None, proc: Path = PROC
) -> Generator[None, None, Survey]:
    """The same as `survey_payers`, in small steps: its caller may do other things in between."""
    began = time.monotonic()
    ranges: dict[Process, list[Vma]] = {}
    gone = set()
    merged = 0
    for process in processes:
        try:
            ranges[process], pages = _merged_ranges(process, proc)
            merged += pages
        except ProcessGone:
            gone.add(process)
        yield
    if every is None:
        every = sampling_step(merged)
    with ExitStack() as files:
        flags = open_node_file("kpageflags", files, proc)
        found: dict[Process, array[int]] = {}
        scanned = 0
        for process, vmas in ranges.items():
            try:
                found[process], read = _collect(process, vmas, flags, every, proc)
                scanned += read
            except ProcessGone:
                gone.add(process)
            yield
        distinct = _distinct(found.values())
        payers = read_words(open_node_file("kpagecgroup", files, proc), distinct)
        counts = read_words(open_node_file("kpagecount", files, proc), distinct)
    shared = group_pages(found, payers, counts)
    looked_at = sum(len(frames) for frames in found.values())
    cost = Cost(scanned, looked_at, time.monotonic() - began)
    return Survey(tuple(shared), every, page_size(), frozenset(gone), cost)


class ChunkPayers:
    """Who pays for the merged pages in a range of one process, asked range by range."""

    def __init__(self, process: Process, inodes: Collection[int], *, proc: Path = PROC) -> None:
        """Open what it reads.

        Args:
            process: whose ranges.
            inodes: cgroups of which it is asked whether one of them pays.
            proc: where procfs is mounted.

        Raises:
            ProcessGone: it exited.
            KernelError, Unsupported: see `survey_payers`.
        """
        self._inodes = inodes
        self._files = ExitStack()
        try:
            self._pagemap = open_pagemap(process, self._files, proc)
            self._flags = open_node_file("kpageflags", self._files, proc)
            self._cgroups = open_node_file("kpagecgroup", self._files, proc)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    def is_unpaid(self, start: int, length: int) -> bool:
        """Whether others pay for at least half of the merged pages in this range of addresses."""
        size = page_size()
        unpaid = merged = 0
        for address in range(start, start + length, BLOCK_PAGES * size):
            pages = min(BLOCK_PAGES, (start + length - address) // size)
            data = os.pread(self._pagemap, pages * 8, address // size * 8)
            frames = sorted(anonymous_frames(array("Q", data)))
            words = zip(
                read_words(self._flags, frames), read_words(self._cgroups, frames), strict=True
            )
            payers = [payer for flags, payer in words if flags & KPF_KSM]
            merged += len(payers)
            unpaid += sum(payer not in self._inodes for payer in payers)
        return unpaid > 0 and 2 * unpaid >= merged


def sampling_step(merged_pages: int) -> int:
    """One page of how many to look at, a power of two."""
    step = 1
    while merged_pages // step > SAMPLED_PAGES:
        step *= 2
    return step


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


def cgroup_inodes(directory: Path) -> frozenset[int]:
    """Inodes of a cgroup and of all below it, as /proc/kpagecgroup names them."""
    found = set()
    for below in walk(directory):
        try:
            found.add(below.stat().st_ino)
        except OSError:
            continue  # removed meanwhile: its charge is shown with its parent's
    return frozenset(found)


def cgroup_names(hierarchy: Hierarchy) -> dict[int, str]:
    """Every cgroup of the node by inode, named as in /proc/PID/cgroup."""
    names = {}
    for directory in walk(hierarchy.mount):
        try:
            names[directory.stat().st_ino] = hierarchy.name(directory)
        except OSError:
            continue
    return names


def _merged_ranges(process: Process, proc: Path) -> tuple[list[Vma], int]:
    """Ranges that may hold merged pages, and about how many pages those are."""
    vmas = [vma for vma in read_vmas(process, proc=proc) if vma.is_mergeable]
    told = [vma for vma in vmas if vma.ksm_bytes]
    if told:
        return told, sum(vma.ksm_bytes for vma in told) // page_size()
    # Kernels before 6.6 do not say how much of a range is merged, only how much of the process.
    pages = read_ksm_stat(process, proc=proc).merging_pages or 0
    return ([vma for vma in vmas if vma.anonymous_bytes] if pages else []), pages


def _distinct(found: Iterable[array[int]]) -> array[int]:
    frames = array("Q")
    for frame, _ in groupby(merge(*found)):
        frames.append(frame)
    return frames


def _collect(
    process: Process, vmas: Iterable[Vma], flags: int, every: int, proc: Path
) -> tuple[array[int], int]:
    """The frames of merged pages of a process, in order, and the bytes scanned for them."""
    size = page_size()
    scanned = 0
    frames: list[int] = []
    with ExitStack() as files:
        pagemap = open_pagemap(process, files, proc)
        for vma in vmas:
            for start in range(vma.start, vma.end, BLOCK_PAGES * size):
                pages = min(BLOCK_PAGES, (vma.end - start) // size)
                data = os.pread(pagemap, pages * 8, start // size * 8)
                if not data:
                    raise ProcessGone(process.pid)
                scanned += pages * size
                if data.count(0) == len(data):
                    continue
                present = anonymous_frames(array("Q", data))
                if present and not any(present):
                    raise KernelError(
                        f"/proc/{process.pid}/pagemap shows no page frames: CAP_SYS_ADMIN is needed"
                    )
                chosen = sample(present, every)
                words = read_words(flags, chosen)
                frames += (
                    frame for frame, word in zip(chosen, words, strict=True) if word & KPF_KSM
                )
    return array("Q", sorted(frames)), scanned
