"""The steps of a release: what is to be given back, how much of it fits, and the calls for it.

The kernel holds the memory map lock of a process while it takes pages apart, and while it walks
addresses for them: so all of it goes in small steps, and the process is looked at in
a way that does not hold that lock for long either (`merged_pages`). smaps is read only where the
flags of the ranges must be known: before 6.14, where nothing else tells whether a process merges,
and where a step may drop flags (see `release`).
"""

from __future__ import annotations

import errno
import mmap
from contextlib import closing
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.chunks import (
    WALK_BYTES,
    Chunk,
    cut,
    goes_with,
    halved,
    may_be_stepped,
    parts_of,
    windows,
)
from ksm_operator.kernel.enrol import check_answer, set_merge
from ksm_operator.kernel.errors import Postponed
from ksm_operator.kernel.headroom import within
from ksm_operator.kernel.ksm_stat import read_ksm_stat
from ksm_operator.kernel.maps import private_ranges, read_maps
from ksm_operator.kernel.marks import read_program
from ksm_operator.kernel.merged_pages import MergedPages
from ksm_operator.kernel.procfs import PROC, Process, page_size
from ksm_operator.kernel.ranges import Range, without
from ksm_operator.kernel.remote import Syscall
from ksm_operator.kernel.smaps import read_merged_bytes, read_vmas

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from pathlib import Path

    from ksm_operator.kernel.marks import Marks
    from ksm_operator.kernel.smaps import Vma
    from ksm_operator.kernel.tracer import RemoteCalls

MADV_UNMERGEABLE: Final = getattr(mmap, "MADV_UNMERGEABLE", 13)

CHUNK_BYTES: Final = 512 << 10
"""Merged memory given back in one visit.

The kernel takes 3 us for a page, and up to 18 us where another thread of the process spins for its
memory map lock on another CPU, which must then be told of each page: 0.4 to 2.3 ms.
"""

MARGIN_BYTES: Final = 4 << 20
"""Most room that a step leaves untouched: the process goes on allocating, counters lag behind."""

OFF_SECONDS: Final = 60.0


class Unmerging:
    """How one process gets its own pages back.

    Attributes:
        process: who.
        tracer: makes it run the calls.
        proc: the proc file system.
        keeps_flags: see `release`.
        by_ranges: it was enrolled range by range.
        ours: the ranges then.
        own: what the program had marked itself, where all of it was enrolled.
        freed_bytes: merged memory that became the process's own by now.
    """

    def __init__(
        self,
        process: Process,
        tracer: RemoteCalls,
        headroom: Callable[[], int | None],
        marks: Marks | None = None,
        *,
        keeps_flags: bool = False,
        chunk_bytes: int = CHUNK_BYTES,
        proc: Path = PROC,
    ) -> None:
        """Look at it; see `release` for what the arguments mean.

        Raises:
            ProcessGone: it exited.
            Postponed: it is about to become another program.
            KernelError: no right to look.
        """
        self.process = process
        self.tracer = tracer
        self._headroom = headroom
        self.keeps_flags = keeps_flags
        self._chunk_bytes = chunk_bytes
        self.proc = proc
        of_this = marks is not None and marks.program == read_program(process, proc=proc)
        self.own = marks.own if marks is not None and of_this else ()
        self.ours = marks.ours if marks is not None and of_this else ()
        self.by_ranges = marks is not None and marks.method == "Madvise"
        stat = read_ksm_stat(process, proc=proc)
        # Then nothing has to be asked of smaps.
        self._by_maps = keeps_flags and stat.merge_any is not None and not self.by_ranges
        self._zeroes = bool(stat.zero_pages)
        self._stepped: list[Range] = []
        self.freed_bytes = 0

    def _vmas(self) -> list[Vma]:
        return read_vmas(self.process, proc=self.proc)

    def _fits(self, need: int) -> bool:
        return within(need, self._headroom(), MARGIN_BYTES)

    def _pieces(self) -> Sequence[Range]:
        """The ranges, or parts of them, that are to be given back step by step."""
        keeps = self.keeps_flags
        if self._by_maps:
            return private_ranges(read_maps(self.process, proc=self.proc))
        if self.by_ranges:
            return parts_of(self._vmas(), self.ours, keeps_flags=keeps)
        return [
            Range(vma.start, vma.end)
            for vma in self._vmas()
            if may_be_stepped(vma, keeps_flags=keeps)
        ]

    def _look(self) -> closing[MergedPages]:
        return closing(MergedPages(self.process, zeroes=self._zeroes, proc=self.proc))

    def _chunks(self, pages: MergedPages) -> Iterator[Chunk]:
        """The steps.

        What has nothing merged is left out, up to what the kernel can walk at once when merging is
        switched off; it does not walk what was never touched.
        """
        left_out = 0
        for piece in self._pieces():
            if not self.by_ranges and not any(map(pages.any_present, windows(piece))):
                continue
            for window in windows(piece):
                merged = [number for number, _ in pages.merged(window)]
                left_out += 0 if merged else window.size
                if merged or left_out > WALK_BYTES or self.by_ranges:
                    yield from cut(window, merged, self._chunk_bytes, page_size())

    def give_back(
        self, wanted: Callable[[Chunk], bool] = lambda _: True
    ) -> Generator[tuple[Chunk, ...], None, bool]:
        """Give back range by range, in visits of one step or several.

        Args:
            wanted: asked of each step.

        Yields:
            What was given back in one visit; nothing when a step was not wanted.

        Returns:
            False if the next step does not fit.

        Raises:
            Postponed: no thread of it can make the calls now, or the kernel found no memory.
            ProcessGone, RemoteCallFailed: see `release`.
        """
        lot: list[Chunk] = []
        self._stepped.clear()
        with self._look() as pages:
            for chunk in self._chunks(pages):
                is_wanted = wanted(chunk)
                if lot and not (is_wanted and goes_with(lot, chunk, self._chunk_bytes)):
                    if not (yield from self._unmerge(lot, wanted)):
                        return False
                    lot = []
                if is_wanted:
                    lot.append(chunk)
                else:
                    yield ()
        return not lot or (yield from self._unmerge(lot, wanted))

    def _unmerge(
        self, lot: Sequence[Chunk], wanted: Callable[[Chunk], bool]
    ) -> Generator[tuple[Chunk, ...], None, bool]:
        """All of them in one visit, or as much as fits in smaller steps."""
        if self._fits(sum(chunk.worst_bytes for chunk in lot)):
            self._visit(lot)
            yield tuple(lot)
            return True
        pending = [*reversed(lot)]
        while pending:
            chunk = pending.pop()
            if self._fits(chunk.worst_bytes):
                self._visit([chunk])
                yield (chunk,)
                continue
            halves = halved(chunk)
            if halves is None:
                return False
            pending.extend(half for half in reversed(halves) if wanted(half))
        return True

    def _visit(self, lot: Sequence[Chunk]) -> None:
        calls = [Syscall("madvise", (chunk.start, chunk.length, MADV_UNMERGEABLE)) for chunk in lot]
        answers = self.tracer.call(self.process, calls).results
        for chunk, answer in zip(lot, answers, strict=True):
            # EAGAIN is what madvise makes of an ENOMEM from within (mm/madvise.c). Its own ENOMEM,
            # as EINVAL, says that the range was unmapped or replaced: another look shows by what.
            no_memory = answer == -errno.EAGAIN
            no_memory |= answer == -errno.ENOMEM and not self._fits(chunk.worst_bytes)
            if no_memory:
                raise Postponed(self.process.pid, "NoHeadroom", "the kernel found no memory")
            if answer in (-errno.ENOMEM, -errno.EINVAL):
                continue
            check_answer(self.process, f"madvise({chunk.start:#x}, MADV_UNMERGEABLE)", answer)
            self._stepped.append(Range(chunk.start, chunk.start + chunk.length))
            self.freed_bytes += chunk.worst_bytes

    def switch_off(self) -> bool:
        """Switch merging off for all of it; False when what is still merged does not fit.

        Raises:
            As `give_back`.
        """
        need = self._not_stepped_bytes()
        if not self._fits(need):
            return False
        answer = self.tracer.call(self.process, [set_merge(on=False, seconds=OFF_SECONDS)])
        if answer.results[0] == -errno.ENOMEM:
            return False
        check_answer(self.process, "prctl(PR_SET_MEMORY_MERGE, 0)", answer.results[0])
        self.freed_bytes += need
        return True

    def _not_stepped_bytes(self) -> int:
        """What is merged but where steps went: ksmd merges nothing there any more.

        Unless the process unmaps such addresses and maps others in their place: what ksmd merges of
        those in the seconds of a release is small, and goes to the margin.
        """
        if not self._by_maps:
            return read_merged_bytes(self.process, proc=self.proc)
        with self._look() as pages:
            found = (
                len(pages.merged(window))
                for piece in without(self._pieces(), self._stepped)
                for window in windows(piece)
            )
            return sum(found) * page_size()
