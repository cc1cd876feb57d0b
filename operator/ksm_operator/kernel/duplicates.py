"""How much of the memory of some processes is held more than once: the ground truth for merging.

Every page that ksmd could merge is read and hashed, merged already or not, so the answer is the
same before and after merging. It costs about 10 microseconds of CPU a page; the processes run on
meanwhile, so a page that changes is counted as it was when it was read.
"""

from __future__ import annotations

import contextlib
from array import array
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from ksm_operator.kernel.contents import MAPPED_ONCE, read_blocks
from ksm_operator.kernel.errors import KernelError, ProcessGone
from ksm_operator.kernel.frames import FRAME, KPF_ZERO_PAGE, PageFlags
from ksm_operator.kernel.ksm_stat import read_ksm_stat
from ksm_operator.kernel.procfs import PROC, Process, is_alive, page_size
from ksm_operator.kernel.smaps import read_vmas

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcessPages:
    """One process's share of the count.

    Attributes:
        process: who.
        pages: private anonymous pages present, merged ones included. A page that fork shares
            counts with the first of the processes that have it.
        zero_pages: those of them that hold zeroes only.
        complete: False if it exited while it was read.
    """

    process: Process
    pages: int
    zero_pages: int
    complete: bool


@dataclass(frozen=True, slots=True)
class Duplicates:
    """What some processes hold, and how much less it could be.

    Attributes:
        pages: private anonymous pages present: memory that these processes would need if nothing
            were merged.
        distinct: different contents among them.
        kept: pages left if all that can merge did; more than `distinct` where a limit of sharers
            asks for further copies.
        zero_pages: pages that hold zeroes only.
        forked_pages: further mappings of pages that fork shares, not in `pages`: they use no
            memory of their own, and ksmd passes over them (mm/ksm.c: it never merges a page with
            itself).
        page_size: bytes of a page.
        processes: the same by process, in the order given.
    """

    pages: int
    distinct: int
    kept: int
    zero_pages: int
    forked_pages: int
    page_size: int
    processes: tuple[ProcessPages, ...]

    @property
    def duplicate_bytes(self) -> int:
        """What merging every identical page saves, against none."""
        return (self.pages - self.kept) * self.page_size


def count_duplicates(
    processes: Iterable[Process], *, max_page_sharing: int | None = None, proc: Path = PROC
) -> Duplicates:
    """Hash every page that ksmd could merge in these processes.

    Holds 8 bytes a page. A process that exits meanwhile counts with what was read of it.

    Args:
        processes: whose memory; each once.
        max_page_sharing: most mappings of one merged page (the file of that name under
            /sys/kernel/mm/ksm); None counts as if there were no such limit.
        proc: where procfs is mounted.

    Raises:
        KernelError: no right to read a process's memory (root is needed).
    """
    tally = _Tally()
    with ExitStack() as files:
        frames = _Frames(files, proc)
        for process in processes:
            tally.add(process, frames, proc)
    distinct = kept = 0
    for bucket in tally.digests:
        counts = Counter(bucket).values()
        distinct += len(counts)
        kept += kept_pages(counts, max_page_sharing)
    if tally.ksm_zero_pages:
        # Mapped to the kernel's own zero page, so no copy of theirs has to be kept.
        distinct += tally.zero_pages == tally.ksm_zero_pages
    return Duplicates(
        pages=tally.pages,
        distinct=distinct,
        kept=kept,
        zero_pages=tally.zero_pages,
        forked_pages=tally.forked_pages,
        page_size=page_size(),
        processes=tuple(tally.processes),
    )


def kept_pages(counts: Iterable[int], max_page_sharing: int | None) -> int:
    """Pages left of contents that are there so many times each."""
    if max_page_sharing is None:
        return sum(1 for _ in counts)
    return sum(-(-count // max_page_sharing) for count in counts)


class _Frames:
    """What is known of physical pages: which are merged, which two processes share by fork."""

    def __init__(self, files: ExitStack, proc: Path) -> None:
        self._flags: PageFlags | None = None
        # Without it, pages shared by fork count as if they were copies.
        with contextlib.suppress(KernelError):
            self._flags = PageFlags(files, proc)
        self._seen: set[int] = set()

    def is_zero_page(self, frame: int) -> bool:
        """The kernel's own page of zeroes."""
        return self._flags is not None and bool(self._flags.words([frame])[0] & KPF_ZERO_PAGE)

    def is_shared_by_fork(self, frame: int) -> bool:
        """Another process that was counted has it too, and not through ksmd."""
        if self._flags is None or not frame:
            return False
        if frame not in self._seen:
            if not self._flags.merged([frame]):
                self._seen.add(frame)
            return False
        return True


class _Tally:
    """The count while it is made."""

    def __init__(self) -> None:
        # By the digest's first byte: small enough to count one after the other.
        self.digests = [array("Q") for _ in range(256)]
        self.pages = self.zero_pages = self.ksm_zero_pages = self.forked_pages = 0
        self.processes: list[ProcessPages] = []
        self._zeroes = bytes(page_size())

    def add(self, process: Process, frames: _Frames, proc: Path) -> None:
        pages, zero_pages = self.pages, self.zero_pages
        try:
            for block in read_blocks(process, read_vmas(process, proc=proc), proc):
                self._add_pages(block.data, block.entries, frames)
            # Mapped to the kernel's zero page by ksmd, where smaps and pagemap do not show them.
            merged_zeroes = read_ksm_stat(process, proc=proc).zero_pages or 0
            self.pages += merged_zeroes
            self.zero_pages += merged_zeroes
            self.ksm_zero_pages += merged_zeroes
            complete = is_alive(process, proc=proc)
        except ProcessGone:
            complete = False
        self.processes.append(
            ProcessPages(process, self.pages - pages, self.zero_pages - zero_pages, complete)
        )

    def _add_pages(self, data: bytes, entries: array[int], frames: _Frames) -> None:
        size = page_size()
        for index in range(len(data) // size):
            page = data[index * size : (index + 1) * size]
            frame = entries[index] & FRAME
            is_zero = page == self._zeroes
            if is_zero and frames.is_zero_page(frame):
                continue
            if not entries[index] & MAPPED_ONCE and frames.is_shared_by_fork(frame):
                self.forked_pages += 1
                continue
            digest = blake2b(page, digest_size=8).digest()
            self.digests[digest[0]].append(int.from_bytes(digest, "big"))
            self.pages += 1
            self.zero_pages += is_zero
