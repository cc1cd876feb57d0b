"""Whether it pays to merge a process that lives in transparent huge pages.

Merging a single page splits the whole huge page that it is part of (mm/ksm.c), so a few shared
pages here and there can cost a process all of its huge pages, and khugepaged does not bring them
back soon. So such a process is enrolled only if a good part of that memory would be given back. How
much that is tell samples of what everybody holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.errors import KernelError, ProcessGone
from ksm_operator.kernel.procfs import (
    PROC,
    Process,
    page_size,
    parse_count,
    parse_fields,
    read_memory_file,
)
from ksm_operator.kernel.samples import (
    SAMPLE_PAGES,
    Pool,
    Sample,
    every_for,
    readable,
    readable_ranges,
    take_sample,
    without_pause,
)
from ksm_operator.kernel.shares import Estimate, estimate

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from ksm_operator.kernel.smaps import Vma

LIVES_SHARE: Final = 0.5
"""Of its private memory in huge pages: who has less does not depend on them."""

WORTH_SHARE: Final = 0.2
"""Of the memory in ranges with huge pages that merging would give back: less is not worth them."""


@dataclass(frozen=True, slots=True)
class Worth:
    """What splitting the huge pages of a process would give.

    Attributes:
        huge_bytes: what it has in huge pages now.
        saved: memory that merging gives back in its ranges with huge pages; what fork shares is
            divided among those who map it.
        share: the same, as a part of the memory in these ranges.
    """

    huge_bytes: int
    saved: Estimate
    share: float

    @property
    def pays(self) -> bool:
        """Whether it is worth the huge pages."""
        return self.share >= WORTH_SHARE


def huge_bytes(vmas: Iterable[Vma]) -> int:
    """Bytes in transparent huge pages."""
    return sum(vma.huge_bytes for vma in vmas)


def lives_in_huge_pages(vmas: Sequence[Vma]) -> bool:
    """True for a process whose huge pages are worth a look before they are split. Pure."""
    return _lives(huge_bytes(vmas), sum(vma.anonymous_bytes for vma in vmas))


def _lives(huge: int, private: int) -> bool:
    return huge > 0 and huge >= LIVES_SHARE * private


def read_huge_pages(process: Process, *, proc: Path = PROC) -> int:
    """Bytes that a process has in huge pages if it lives in them, else 0.

    Walks its page tables, and takes no list of its ranges.

    Raises:
        ProcessGone: it exited.
        KernelError: no right to read it.
    """
    data = read_memory_file(process, "smaps_rollup", proc=proc)
    fields = parse_fields(data.decode(errors="surrogateescape"))
    huge, private = (
        1024 * (parse_count(fields.get(name, "").removesuffix(" kB")) or 0)
        for name in ("AnonHugePages", "Anonymous")
    )
    return huge if _lives(huge, private) else 0


class Look:
    """What processes hold, read once of each, and what that is worth.

    Attributes:
        every: one content of so many is looked at; 0 before the first.
    """

    def __init__(
        self,
        *,
        most_pages: int = SAMPLE_PAGES,
        pause: Callable[[], None] = without_pause,
        proc: Path = PROC,
    ) -> None:
        """Read nothing yet.

        Args:
            most_pages: about so many are kept of all processes together.
            pause: see `take_sample`.
            proc: the proc file system.
        """
        self.every = 0
        self._most_pages = most_pages
        self._pause = pause
        self._proc = proc
        self._samples: dict[Process, Sample] = {}

    def worth_of(
        self, candidates: Iterable[Process], others: Callable[[], Iterable[Process]]
    ) -> dict[Process, Worth | KernelError]:
        """What splitting gives for those candidates that live in huge pages. Changes nothing.

        Reads the memory of everybody, but only if a candidate lives in huge pages.

        Args:
            candidates: who may be enrolled as a whole.
            others: asked for everybody else who merges; those who cannot be read are passed over.

        Returns:
            An entry for each candidate that lives in huge pages; an error for one that cannot be
            read. Nobody was counted as a partner who does not pay himself.
        """
        huge: dict[Process, int] = {}
        # Of the others, only what is marked can be merged with.
        only_marked: dict[Process, bool] = {}
        for process, vmas in readable_ranges(candidates, self._proc):
            only_marked[process] = False
            if lives_in_huge_pages(vmas):
                huge[process] = huge_bytes(vmas)
        if not huge:
            return {}
        for process in others():
            only_marked.setdefault(process, True)
        if not self.every:
            ranges = (
                vma
                for process, vmas in readable_ranges(only_marked, self._proc)
                for vma in vmas
                if vma.is_mergeable or not only_marked[process]
            )
            self.every = every_for(ranges, self._most_pages)
        unreadable = self._read(only_marked, huge)
        samples = [self._samples[one] for one in only_marked if one in self._samples]
        return unreadable | judge(samples, huge, self.every, page_size())

    def _read(
        self, only_marked: Mapping[Process, bool], huge: dict[Process, int]
    ) -> dict[Process, Worth | KernelError]:
        """Sample who has not been yet; those who cannot be are taken out of `huge`, and told."""
        unreadable: dict[Process, Worth | KernelError] = {}
        for process in [one for one in only_marked if one not in self._samples]:
            try:
                sample = self._sample(process, only_marked=only_marked[process])
            except ProcessGone:
                huge.pop(process, None)
            except KernelError as error:
                if huge.pop(process, None):
                    unreadable[process] = error
            else:
                self._samples[process] = sample
        return unreadable

    def _sample(self, process: Process, *, only_marked: bool) -> Sample:
        vmas = [one for one in readable(process, self._proc) if one.is_mergeable or not only_marked]
        return take_sample(process, vmas, self.every, pause=self._pause, proc=self._proc)


def judge(
    samples: Collection[Sample], candidates: Mapping[Process, int], every: int, size: int
) -> dict[Process, Worth]:
    """What each of the candidates would give, provided that those are left alone that do not pay.

    Whoever shares with one that is left alone gives less then, never more: so those who pay are the
    largest set of processes that pay for each other. Pure.

    Args:
        samples: of everybody whose pages may be merged, candidates too.
        candidates: bytes in huge pages of those whose huge pages are at stake.
        every: one content of so many is in the samples.
        size: bytes of a page.
    """
    pool = Pool(samples)
    verdicts: dict[Process, Worth] = {}
    left = {one.process: one for one in samples if one.process in candidates}
    while True:
        losers = []
        for process, sample in left.items():
            verdicts[process] = _worth(sample, pool, candidates[process], every, size)
            if not verdicts[process].pays:
                losers.append(process)
        if not losers:
            return verdicts
        for process in losers:
            pool.remove(left.pop(process))


def _worth(sample: Sample, pool: Pool, huge: int, every: int, size: int) -> Worth:
    held = saved = squares = 0.0
    parts: dict[int, float] = {}
    own: dict[int, set[int]] = {}
    rows = zip(sample.contents, sample.frames, sample.counts, sample.in_huge, strict=True)
    for content, frame, count, is_huge in rows:
        if not is_huge or not count:
            continue
        part = 1 / count
        held += part
        if pool.is_whole(frame, count):
            parts[content] = parts.get(content, 0.0) + part
            own.setdefault(content, set()).add(frame)
            if content == pool.zero:
                squares += part * part
    for content, frames in own.items():
        # One copy has to be kept: another's, if there is one.
        kept = 0.0 if pool.whole[content] > len(frames) else parts[content] / len(frames)
        saved += parts[content] - kept
        if content != pool.zero:
            squares += (parts[content] - kept) ** 2
    return Worth(huge, estimate(saved, squares, every, size), saved / held if held else 0.0)
