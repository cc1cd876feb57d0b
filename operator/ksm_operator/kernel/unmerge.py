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
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.chunks import (
    SMALLEST_BYTES,
    WALK_BYTES,
    Chunk,
    cut,
    goes_with,
    is_full,
    may_be_stepped,
    parts_of,
    windows,
)
from ksm_operator.kernel.enrol import check_answer, set_merge
from ksm_operator.kernel.errors import Postponed
from ksm_operator.kernel.headroom import within
from ksm_operator.kernel.ksm_stat import read_ksm_stat
from ksm_operator.kernel.maps import private, read_maps
from ksm_operator.kernel.marks import read_program
from ksm_operator.kernel.merged_pages import MergedPages
from ksm_operator.kernel.procfs import PROC, Process, page_size
from ksm_operator.kernel.ranges import Range, without
from ksm_operator.kernel.remote import Syscall
from ksm_operator.kernel.smaps import read_merged_bytes, read_vmas

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
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


@dataclass(frozen=True, slots=True)
class Piece:
    """A range to be given back.

    Attributes:
        where: its addresses.
        walked: the kernel may walk them all even where nothing is present: something was once.
    """

    where: Range
    walked: bool


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
        if self._by_maps:
            with self._look() as pages:
                self._by_maps = pages.is_sure
        self._stepped: list[Range] = []
        self.freed_bytes = 0

    def _vmas(self) -> list[Vma]:
        return read_vmas(self.process, proc=self.proc)

    def _look(self) -> closing[MergedPages]:
        zeroes = bool(read_ksm_stat(self.process, proc=self.proc).zero_pages)
        return closing(MergedPages(self.process, zeroes=zeroes, proc=self.proc))

    def _pieces(self) -> list[Piece]:
        """The ranges, or parts of them, that are to be given back step by step."""
        keeps = self.keeps_flags
        if self._by_maps:
            mappings = private(read_maps(self.process, proc=self.proc))
            # Runtimes give memory back by mapping anew, without any rights, what they reserved.
            return [
                Piece(Range(one.start, one.end), one.inode == 0 and one.rights[:3] != b"---")
                for one in mappings
            ]
        if self.by_ranges:
            return [
                Piece(each, walked=True)
                for each in parts_of(self._vmas(), self.ours, keeps_flags=keeps)
            ]
        return [
            Piece(Range(vma.start, vma.end), vma.anonymous_bytes > 0)
            for vma in self._vmas()
            if may_be_stepped(vma, keeps_flags=keeps)
        ]

    def _chunks(self, pages: MergedPages, *, empty_too: bool) -> Iterator[Chunk | None]:
        """The steps; None now and then, for looking takes its time.

        What has something merged goes first: if that does not fit, no walk is worth its while. The
        rest is left out up to what the kernel can walk at once when merging is switched off.
        """
        empty: list[Range] = []
        for piece in self._pieces():
            small = piece.where.size <= WALK_BYTES
            present = pages.any_present(piece.where)
            if not present and not self.by_ranges and (small or not piece.walked):
                continue
            for window in windows(piece.where):
                merged = self._merged(window, pages) if present else []
                if merged:
                    yield from cut(window, merged, self._chunk_bytes, page_size())
                else:
                    empty.append(window)
                    yield None
        left_out = 0
        for window in empty if empty_too else ():
            if self.by_ranges or left_out + window.size > WALK_BYTES:
                yield Chunk(window.start, window.size, 0)
            else:
                left_out += window.size

    def _merged(self, where: Range, pages: MergedPages) -> list[int]:
        return [number for number, _ in pages.merged(where)]

    def give_back(
        self, wanted: Callable[[Chunk], bool] | None = None
    ) -> Generator[tuple[Chunk, ...], None, bool]:
        """Give back range by range, in visits of one step or several.

        Args:
            wanted: asked of each step with merged memory; None for all, and for empty ranges too.

        Yields:
            What was given back in one visit; nothing when a step was not wanted.

        Returns:
            False if the next step does not fit.

        Raises:
            Postponed: no thread of it can make the calls now, or the kernel found no memory.
            ProcessGone, RemoteCallFailed: see `release`.
        """
        self._stepped.clear()
        with self._look() as pages:
            for lot in self._lots(self._chunks(pages, empty_too=wanted is None), wanted):
                if not lot:
                    yield ()
                elif not (yield from self._unmerge(lot, pages, wanted)):
                    return False
        return True

    def _lots(
        self, chunks: Iterable[Chunk | None], wanted: Callable[[Chunk], bool] | None
    ) -> Iterator[list[Chunk]]:
        """What goes in one visit; nothing for what is not wanted. Each as soon as it is full."""
        lot: list[Chunk] = []
        for chunk in chunks:
            if chunk is None:
                yield []
                continue
            is_wanted = wanted is None or wanted(chunk)
            if lot and not (is_wanted and goes_with(lot, chunk, self._chunk_bytes)):
                yield lot
                lot = []
            if not is_wanted:
                yield []
                continue
            lot.append(chunk)
            if is_full(lot, self._chunk_bytes):
                yield lot
                lot = []
        if lot:
            yield lot

    def _unmerge(
        self, lot: Sequence[Chunk], pages: MergedPages, wanted: Callable[[Chunk], bool] | None
    ) -> Generator[tuple[Chunk, ...], None, bool]:
        """All of them in one visit, or as much as fits in smaller steps."""
        if not self._fits(sum(chunk.length for chunk in lot)):
            # ksmd may have merged more of it since it was looked at.
            lot = [self._counted(chunk, pages) for chunk in lot]
        if self._fits(sum(chunk.worst_bytes for chunk in lot)):
            self._visit(lot)
            yield tuple(lot)
            return True
        pending = [*reversed(lot)]
        while pending:
            chunk = self._counted(pending.pop(), pages)
            if self._fits(chunk.worst_bytes):
                self._visit([chunk])
                yield (chunk,)
                continue
            smaller = self._smaller(chunk, pages)
            if not smaller:
                return False
            pending.extend(each for each in reversed(smaller) if wanted is None or wanted(each))
        return True

    def _counted(self, chunk: Chunk, pages: MergedPages) -> Chunk:
        return replace(chunk, worst_bytes=len(pages.merged(chunk.where)) * page_size())

    def _smaller(self, chunk: Chunk, pages: MergedPages) -> list[Chunk]:
        """Halves of a step that does not fit; none when it is as small as steps get."""
        if chunk.worst_bytes <= max(SMALLEST_BYTES, page_size()):
            return []
        merged = self._merged(chunk.where, pages)
        return list(cut(chunk.where, merged, chunk.worst_bytes // 2, page_size()))

    def _fits(self, need: int) -> bool:
        return within(need, self._headroom(), MARGIN_BYTES)

    def _visit(self, lot: Sequence[Chunk]) -> None:
        calls = [Syscall("madvise", (chunk.start, chunk.length, MADV_UNMERGEABLE)) for chunk in lot]
        answers = self.tracer.call(self.process, calls).results
        no_memory = False
        for chunk, answer in zip(lot, answers, strict=True):
            if answer == 0:
                self._stepped.append(chunk.where)
                self.freed_bytes += chunk.worst_bytes
            # EAGAIN is what madvise makes of an ENOMEM from within (mm/madvise.c): no memory, or no
            # more ranges (vm.max_map_count), which the one call at the end does not need. Its own
            # ENOMEM, as EINVAL, says that the range was unmapped or replaced: another look tells.
            elif answer in (-errno.EAGAIN, -errno.ENOMEM):
                no_memory |= not self._fits(chunk.worst_bytes)
            elif answer != -errno.EINVAL:
                check_answer(self.process, f"madvise({chunk.start:#x}, MADV_UNMERGEABLE)", answer)
        if no_memory:
            raise Postponed(self.process.pid, "NoHeadroom", "the kernel found no memory")

    def switch_off(self) -> bool:
        """Switch merging off for all of it; False when what is still merged does not fit.

        Raises:
            As `give_back`.
        """
        room = self._headroom()
        need = self._merged_bytes(self._stepped)
        if room is not None and room < need + 2 * MARGIN_BYTES:
            # Nothing merges where steps went, unless the process mapped other memory there since.
            need = self._merged_bytes(())
        if not within(need, room, MARGIN_BYTES):
            return False
        answer = self.tracer.call(self.process, [set_merge(on=False, seconds=OFF_SECONDS)])
        if answer.results[0] == -errno.ENOMEM:
            return False
        check_answer(self.process, "prctl(PR_SET_MEMORY_MERGE, 0)", answer.results[0])
        self.freed_bytes += need
        return True

    def _merged_bytes(self, but: Iterable[Range]) -> int:
        """What is merged, but for these ranges where that can be told."""
        if not self._by_maps:
            return read_merged_bytes(self.process, proc=self.proc)
        with self._look() as pages:
            found = (
                len(pages.merged(window))
                for piece in without((each.where for each in self._pieces()), but)
                for window in windows(piece)
            )
            return sum(found) * page_size()
