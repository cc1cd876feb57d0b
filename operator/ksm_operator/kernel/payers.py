"""Reading who pays for merged memory: which cgroup each merged page is charged to, who maps it.

Everything is read from /proc/PID/pagemap, /proc/kpageflags, /proc/kpagecgroup and /proc/kpagecount
(Documentation/admin-guide/mm/pagemap.rst) while the processes run on: the figures are of about this
moment, and a page that was freed or reused in between counts as it was read. What is found is a
`Survey`, a value of `shares`.
"""

from __future__ import annotations

import contextlib
import time
from array import array
from contextlib import ExitStack, closing
from heapq import merge
from itertools import groupby
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.cgroupfs import walk
from ksm_operator.kernel.errors import KernelError, Postponed, ProcessGone
from ksm_operator.kernel.frames import (
    BLOCK_PAGES,
    PageFlags,
    anonymous_frames,
    open_node_file,
    read_words,
    sample,
)
from ksm_operator.kernel.headroom import path_up
from ksm_operator.kernel.ksm_stat import read_merging_pages
from ksm_operator.kernel.maps import private, read_maps
from ksm_operator.kernel.merged_pages import MergedPages
from ksm_operator.kernel.procfs import PROC, Process, open_memory_file, page_size, read_places
from ksm_operator.kernel.ranges import Range
from ksm_operator.kernel.shares import Cost, Survey, group_pages
from ksm_operator.kernel.smaps import read_vmas
from ksm_operator.kernel.steps import run

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterable, Iterator
    from pathlib import Path

    from ksm_operator.kernel.cgroupfs import Hierarchy

SAMPLED_PAGES: Final = 1 << 16
"""Merged mappings that a sample aims at: an error of about 1 %, for 0.3 s of CPU."""

MOST_AT_ONCE: Final = 64
"""Ranges looked at in one step."""


def survey_payers(
    processes: Iterable[Process], *, every: int | None = None, proc: Path = PROC
) -> Survey:
    """Find out who maps the merged pages of these processes, and who pays for them.

    Holds 8 bytes for each mapping looked at. Costs about 0.2 s of CPU for each GiB of private
    memory, and 5 us for each mapping looked at.

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
    counted: dict[Process, int] = {}
    gone = set()
    with ExitStack() as files:
        flags = PageFlags(files, proc)
        for process in processes:
            try:
                pages = read_merging_pages(process, proc=proc) or 0
                if not flags.mark.is_sure:
                    _, pages = _ranges(process, pages, flags, proc)
                counted[process] = pages
            except ProcessGone:
                gone.add(process)
            except Postponed:
                pass  # it holds its memory lock: its pages count as somebody else's
            yield
        if every is None:
            every = sampling_step(sum(counted.values()))
        found: dict[Process, array[int]] = {}
        scanned = told = 0
        for process, pages in counted.items():
            try:
                # Of one process after the other: the ranges of thousands would be 10 MiB.
                where, merged = _ranges(process, pages, flags, proc)
                yield
                found[process], read = yield from _collect(process, where, flags, every, proc)
            except ProcessGone:
                gone.add(process)
            except Postponed:
                pass
            else:
                scanned += read
                told += merged
            yield
        distinct = _distinct(found.values())
        payers = read_words(open_node_file("kpagecgroup", files, proc), distinct)
        counts = read_words(open_node_file("kpagecount", files, proc), distinct)
    shared = group_pages(found, payers, counts)
    looked_at = sum(len(frames) for frames in found.values())
    return Survey(
        shared=tuple(shared),
        every=every,
        page_size=page_size(),
        gone=frozenset(gone),
        cost=Cost(scanned, looked_at, time.monotonic() - began),
        told_bytes=None if flags.mark.is_sure else told * page_size(),
    )


class ChunkPayers:
    """The merged pages of one process, and who pays for them, asked range by range."""

    def __init__(self, process: Process, *, proc: Path = PROC) -> None:
        """Open what it reads.

        Args:
            process: whose ranges.
            proc: where procfs is mounted.

        Raises:
            ProcessGone: it exited.
            KernelError, Unsupported: see `survey_payers`.
        """
        self._files = ExitStack()
        try:
            self._pages = self._files.enter_context(closing(MergedPages(process, proc=proc)))
            self._cgroups = open_node_file("kpagecgroup", self._files, proc)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    def merged(self, start: int, length: int) -> list[tuple[int, int]]:
        """Frame and payer (inode of a cgroup) of each merged page in these addresses."""
        pages = self._pages.merged(Range(start, start + length))
        frames = sorted(frame for _, frame in pages)
        return list(zip(frames, read_words(self._cgroups, frames), strict=True))

    def is_unpaid(self, start: int, length: int, inodes: Collection[int]) -> bool:
        """Whether others than these cgroups pay for half or more of the merged pages there."""
        payers = [payer for _, payer in self.merged(start, length)]
        unpaid = sum(payer not in inodes for payer in payers)
        return unpaid > 0 and 2 * unpaid >= len(payers)


def sampling_step(merged_pages: int) -> int:
    """One page of how many to look at, a power of two."""
    step = 1
    while merged_pages // step > SAMPLED_PAGES:
        step *= 2
    return step


def cgroup_inodes(directory: Path) -> frozenset[int]:
    """Inodes of a cgroup and of all below it, as /proc/kpagecgroup names them."""
    found = set()
    for below in walk(directory):
        try:
            found.add(below.stat().st_ino)
        except OSError:
            continue  # removed meanwhile: its charge is shown with its parent's
    return frozenset(found)


def inodes_above(hierarchy: Hierarchy, directory: Path) -> frozenset[int]:
    """Inodes of a cgroup and of all above it."""
    found = set()
    for level in path_up(hierarchy, directory):
        with contextlib.suppress(OSError):
            found.add(level.stat().st_ino)
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


def _ranges(process: Process, pages: int, flags: PageFlags, proc: Path) -> tuple[list[Range], int]:
    """Where merged pages of a process may be, and how many the kernel counts there.

    `pages` is what the process's own counter has: for kernels that do not count by range.
    """
    if flags.mark.is_sure:
        # A child that was forked has merged pages which its counters do not know.
        mappings = private(read_maps(process, proc=proc))
        return [Range(one.start, one.end) for one in mappings], pages
    vmas = [vma for vma in read_vmas(process, proc=proc) if vma.is_mergeable]
    told = [vma for vma in vmas if vma.ksm_bytes]
    if told:
        pages = sum(vma.ksm_bytes for vma in told) // page_size()
    elif pages:
        # Kernels before 6.6 do not say how much of a range is merged, only how much of the process.
        told = [vma for vma in vmas if vma.anonymous_bytes]
    return [Range(vma.start, vma.end) for vma in told], pages


def _distinct(found: Iterable[array[int]]) -> array[int]:
    frames = array("Q")
    for frame, _ in groupby(merge(*found)):
        frames.append(frame)
    return frames


def _collect(
    process: Process, ranges: Iterable[Range], flags: PageFlags, every: int, proc: Path
) -> Generator[None, None, tuple[array[int], int]]:
    """The frames of merged pages of a process, in order, and the bytes scanned for them."""
    size = page_size()
    scanned = 0
    frames: list[int] = []
    with ExitStack() as files:
        pagemap = open_memory_file(process, "pagemap", files, proc)
        for places in batches(ranges):
            for data in read_places(process, pagemap, places):
                if not data:
                    raise ProcessGone(process.pid)
                scanned += len(data) // 8 * size
                present = anonymous_frames(data)
                if present and not any(present):
                    raise KernelError(
                        f"/proc/{process.pid}/pagemap shows no page frames: CAP_SYS_ADMIN is needed"
                    )
                frames += flags.merged(sample(present, every))
            yield
    return array("Q", sorted(frames)), scanned


def batches(ranges: Iterable[Range]) -> Iterator[list[tuple[int, int]]]:
    """Where to read in pagemap, as offsets and lengths, about a block at a time."""
    size = page_size()
    batch: list[tuple[int, int]] = []
    total = 0
    for each in ranges:
        for start in range(each.start, each.end, BLOCK_PAGES * size):
            pages = min(BLOCK_PAGES, (each.end - start) // size)
            if batch and (total + pages > BLOCK_PAGES or len(batch) == MOST_AT_ONCE):
                yield batch
                batch, total = [], 0
            batch.append((start // size * 8, pages * 8))
            total += pages
    if batch:
        yield batch
