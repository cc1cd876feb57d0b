"""Whether it pays to merge a process that lives in transparent huge pages.

Merging a single page splits the whole huge page that it is part of (mm/ksm.c), so a few shared
pages here and there can cost a process all of its huge pages, and khugepaged does not bring them
back soon. So such a process is enrolled only if a good part of that memory would be given back.

How much that is has to be known before anything is merged, hence from what the pages hold. They are
read once; those kept as a sample are chosen by their content, so that two processes with the same
page have it in both samples or in neither: of pages chosen by place, two with the same content
would hardly ever meet. Reading costs about a second of CPU per GiB.
"""

from __future__ import annotations

import math
import zlib
from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.contents import read_blocks
from ksm_operator.kernel.errors import ProcessGone
from ksm_operator.kernel.frames import FRAME
from ksm_operator.kernel.procfs import PROC, Process, page_size
from ksm_operator.kernel.shares import Estimate, estimate
from ksm_operator.kernel.smaps import read_vmas

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from ksm_operator.kernel.smaps import Vma

LIVES_SHARE: Final = 0.5
"""Of its private memory in huge pages: who has less does not depend on them."""

WORTH_SHARE: Final = 0.2
"""Of the memory in ranges with huge pages that merging would give back: less is not worth them."""

SAMPLE_PAGES: Final = 1 << 18
"""Pages kept of all processes together: 13 bytes each."""

MIXED: Final = 2654435761
CONTENT_BITS: Final = 32


@dataclass(frozen=True, slots=True)
class Sample:
    """Some pages of one process.

    Attributes:
        process: who.
        every: one content of so many is in it. Pages of zeroes are all in it: they are many, and
            all or none of them would be.
        contents: a checksum of each page.
        frames: the page frame that each was in.
        in_huge: 1 for each that is in a range with huge pages.
    """

    process: Process
    every: int
    contents: array[int]
    frames: array[int]
    in_huge: array[int]


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
    huge = huge_bytes(vmas)
    return huge > 0 and huge >= LIVES_SHARE * sum(vma.anonymous_bytes for vma in vmas)


def worth_of(
    candidates: Iterable[Process],
    others: Callable[[], Iterable[Process]],
    *,
    proc: Path = PROC,
) -> dict[Process, Worth]:
    """What splitting gives for those candidates that live in huge pages. Changes nothing.

    Reads the memory of everybody, but only if a candidate lives in huge pages.

    Args:
        candidates: who may be enrolled.
        others: asked for everybody else whose pages theirs may be merged with.
        proc: the proc file system.

    Returns:
        An entry for each candidate that lives in huge pages. Those that do not pay were not
        counted as partners of the others.

    Raises:
        KernelError: no right to read the memory of a process.
    """
    wanted = _ranges(candidates, proc)
    huge = {one: huge_bytes(vmas) for one, vmas in wanted.items() if lives_in_huge_pages(vmas)}
    if not huge:
        return {}
    everybody = wanted | _ranges((one for one in others() if one not in wanted), proc)
    pages = sum(vma.anonymous_bytes for vmas in everybody.values() for vma in vmas) // page_size()
    every = 1 << max(0, math.ceil(math.log2(max(1, pages) / SAMPLE_PAGES)))
    samples = []
    for process, vmas in everybody.items():
        try:
            samples.append(take_sample(process, vmas, every, proc=proc))
        except ProcessGone:
            huge.pop(process, None)
    return judge(samples, huge, page_size())


def take_sample(process: Process, vmas: Iterable[Vma], every: int, *, proc: Path = PROC) -> Sample:
    """Read all that ksmd could merge of these ranges, and keep a part of it.

    Raises:
        ProcessGone: it exited.
        KernelError: no right to read it.
    """
    size, zero = page_size(), zero_content(page_size())
    limit, mask = (1 << CONTENT_BITS) // every, (1 << CONTENT_BITS) - 1
    contents, frames, in_huge = array("I"), array("Q"), array("B")
    for block in read_blocks(process, vmas, proc):
        is_huge, data = block.vma.huge_bytes > 0, memoryview(block.data)
        for index in range(len(data) // size):
            content = zlib.crc32(data[index * size : (index + 1) * size])
            # Mixed, because a checksum of similar pages is similar in its high bits.
            if content == zero or content * MIXED & mask < limit:
                contents.append(content)
                frames.append(block.entries[index] & FRAME)
                in_huge.append(is_huge)
    return Sample(process, every, contents, frames, in_huge)


def zero_content(size: int) -> int:
    """The checksum of a page of zeroes."""
    return zlib.crc32(bytes(size))


def judge(
    samples: Sequence[Sample], candidates: Mapping[Process, int], size: int
) -> dict[Process, Worth]:
    """What each of the candidates would give, provided that those are left alone that do not pay.

    Pure.

    Args:
        samples: of everybody whose pages may be merged, candidates too.
        candidates: bytes in huge pages of those whose huge pages are at stake.
        size: bytes of a page.
    """
    verdicts: dict[Process, Worth] = {}
    left = dict(candidates)
    while True:
        included = [one for one in samples if one.process in left or one.process not in candidates]
        found = _count(included, left, size)
        verdicts |= found
        losers = [process for process, worth in found.items() if not worth.pays]
        if not losers:
            return verdicts
        # Whoever shares with them gives less now, never more: so it comes to an end.
        for process in losers:
            del left[process]


def _count(
    samples: Sequence[Sample], candidates: Mapping[Process, int], size: int
) -> dict[Process, Worth]:
    mappers: Counter[int] = Counter()
    places: defaultdict[int, set[int]] = defaultdict(set)
    for sample in samples:
        mappers.update(set(sample.frames))
        for content, frame in zip(sample.contents, sample.frames, strict=True):
            places[content].add(frame)
    zero = zero_content(size)
    verdicts = {}
    for sample in samples:
        if sample.process not in candidates:
            continue
        own: defaultdict[int, set[int]] = defaultdict(set)
        rows = zip(sample.contents, sample.frames, sample.in_huge, strict=True)
        for content, frame, is_huge in rows:
            if is_huge:
                own[content].add(frame)
        held = saved = squares = zeroes_held = zeroes = 0.0
        for content, frames in own.items():
            pages = sum(1 / mappers[frame] for frame in frames)
            # One copy has to be kept: another's, if there is one.
            kept = 0.0 if len(places[content]) > len(frames) else pages / len(frames)
            if content == zero:
                zeroes_held, zeroes = pages, pages - kept
            else:
                held, saved = held + pages, saved + pages - kept
                squares += (pages - kept) ** 2
        whole = held * sample.every + zeroes_held
        sampled = estimate(saved, squares, sample.every, size)
        verdicts[sample.process] = Worth(
            huge_bytes=candidates[sample.process],
            saved=Estimate(sampled.size + round(zeroes * size), sampled.error),
            share=(saved * sample.every + zeroes) / whole if whole else 0.0,
        )
    return verdicts


def _ranges(processes: Iterable[Process], proc: Path) -> dict[Process, list[Vma]]:
    found = {}
    for process in processes:
        try:
            found[process] = read_vmas(process, proc=proc)
        except ProcessGone:
            continue
    return found
