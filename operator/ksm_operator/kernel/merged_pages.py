"""Which pages of a process are merged, found without being in its way.

smaps tells how much of a range is merged, but walks all of the range under the process's memory map
lock: 28 ms for each GiB (Linux 6.18) in which no other thread of it maps or unmaps anything.
/proc/PID/pagemap is read in places, and holds that lock for 2 MiB of addresses at a time
(PAGEMAP_WALK_SIZE, fs/proc/task_mmu.c).
"""

from __future__ import annotations

import contextlib
from array import array
from contextlib import ExitStack
from typing import TYPE_CHECKING

from ksm_operator.kernel.errors import KernelError
from ksm_operator.kernel.frames import (
    BLOCK_PAGES,
    FRAME,
    KPF_ZERO_PAGE,
    PageFlags,
    anonymous_runs,
)
from ksm_operator.kernel.procfs import PROC, Process, open_memory_file, page_size, read_places

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ksm_operator.kernel.ranges import Range


class MergedPages:
    """The merged pages of one process, asked range by range; it runs on meanwhile."""

    def __init__(self, process: Process, *, zeroes: bool = False, proc: Path = PROC) -> None:
        """Open what it reads.

        Where merged pages cannot be told from others (/proc/kpageflags is masked, or frames are
        hidden from us), every private page that is present counts as merged.

        Args:
            process: whose.
            zeroes: count every mapping of the zero page as merged: ksmd makes such mappings too,
                and the kernel does not tell which (`KsmStat.zero_pages`).
            proc: where procfs is mounted.

        Raises:
            ProcessGone: it exited.
            KernelError: no right to read it.
        """
        self._process = process
        self._files = ExitStack()
        self._zeroes = zeroes
        self._flags: PageFlags | None = None
        try:
            self._pagemap = open_memory_file(process, "pagemap", self._files, proc)
            with contextlib.suppress(KernelError):
                self._flags = PageFlags(self._files, proc)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    @property
    def is_sure(self) -> bool:
        """Whether no merged page is missed, and no other one taken for merged."""
        return self._flags is not None and self._flags.mark.is_sure

    def any_present(self, where: Range) -> bool:
        """Whether there is any private page of memory in these addresses."""
        return any(anonymous_runs(data) for _, data in self._read(where))

    def merged(self, where: Range) -> list[tuple[int, int]]:
        """Number in the range, and frame, of each merged page, in order of their addresses.

        Nothing once the process runs another program: these files show the memory of the old one.
        """
        return [page for first, data in self._read(where) for page in self._merged(first, data)]

    def _merged(self, first: int, data: bytes) -> list[tuple[int, int]]:
        pages: list[tuple[int, int]] = []
        for start, end in anonymous_runs(data):
            entries = array("Q", data[start * 8 : end * 8])
            frames = (entry & FRAME for entry in entries)
            pages += zip(frames, range(first + start, first + end), strict=True)
        if self._flags is None or (pages and not any(frame for frame, _ in pages)):
            return [(number, frame) for frame, number in pages]
        pages.sort()
        words = self._flags.words([frame for frame, _ in pages])
        mark, zero = self._flags.mark, KPF_ZERO_PAGE if self._zeroes else 0
        return sorted(
            (number, frame)
            for (frame, number), word in zip(pages, words, strict=True)
            if mark.is_on(word) or word & zero
        )

    def _read(self, where: Range) -> Iterator[tuple[int, bytes]]:
        """Entries of the range, and the number of the first of them, some at a time."""
        size = page_size()
        for start in range(where.start, where.end, BLOCK_PAGES * size):
            pages = min(BLOCK_PAGES, (where.end - start) // size)
            place = (start // size * 8, pages * 8)
            (data,) = read_places(self._process, self._pagemap, [place])
            yield (start - where.start) // size, data
