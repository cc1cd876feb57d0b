"""Whether it pays to merge a process that lives in transparent huge pages.

Merging a single page splits the whole huge page that it is part of (mm/ksm.c), so a few shared
pages here and there can cost a process all of its huge pages, and khugepaged does not bring them
back soon. So such a process is enrolled only if a good part of that memory would be given back.

How much that is has to be known before anything is merged, hence from what the pages hold. They are
read once; those kept as a sample are chosen by their content, so that two processes with the same
page have it in both samples or in neither: of pages chosen by place, two with the same content
would hardly ever meet. Reading costs one to two seconds of CPU per GiB.
"""

from __future__ import annotations

import math
import zlib
from array import array
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.contents import MAPPED_ONCE, can_be_read, read_blocks
from ksm_operator.kernel.errors import KernelError, ProcessGone
from ksm_operator.kernel.frames import FRAME, HASH, HASH_BITS, open_node_file, read_words
from ksm_operator.kernel.procfs import PROC, Process, page_size
from ksm_operator.kernel.shares import Estimate, estimate
from ksm_operator.kernel.smaps import read_vmas

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from ksm_operator.kernel.smaps import Vma

LIVES_SHARE: Final = 0.5
"""Of its private memory in huge pages: who has less does not depend on them."""

WORTH_SHARE: Final = 0.2
"""Of the memory in ranges with huge pages that merging would give back: less is not worth them."""

SAMPLE_PAGES: Final = 1 << 16
"""Pages kept of all processes together: half a KiB each while they are compared."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Some pages of one process.

    Attributes:
        process: who.
        contents: a checksum of each page.
        frames: the page frame that each was in.
        counts: how often each frame was mapped, by whomever; 0 for the kernel's page of zeroes.
        in_huge: 1 for each that is in a range with huge pages.
    """

    process: Process
    contents: array[int]
    frames: array[int]
    counts: array[int]
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


class Look:
    """What processes hold, read once of each, and what that is worth.

    Attributes:
        every: one content of so many is looked at; 0 before the first.
    """

    def __init__(self, *, proc: Path = PROC) -> None:
        """Read nothing yet."""
        self.every = 0
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
        wanted = dict(_ranges(candidates, self._proc))
        huge = {one: huge_bytes(vmas) for one, vmas in wanted.items() if lives_in_huge_pages(vmas)}
        if not huge:
            return {}
        for process, vmas in _ranges(others(), self._proc):
            # Only what is marked can be merged with.
            wanted.setdefault(process, [vma for vma in vmas if vma.is_mergeable])
        if not self.every:
            self.every = _every(vma for vmas in wanted.values() for vma in vmas)
        unreadable: dict[Process, Worth | KernelError] = {}
        for process, vmas in wanted.items():
            if process in self._samples:
                continue
            try:
                sample = take_sample(process, vmas, self.every, proc=self._proc)
            except ProcessGone:
                huge.pop(process, None)
            except KernelError as error:
                if huge.pop(process, None):
                    unreadable[process] = error
            else:
                self._samples[process] = sample
        samples = [self._samples[one] for one in wanted if one in self._samples]
        return unreadable | judge(samples, huge, self.every, page_size())


def take_sample(process: Process, vmas: Iterable[Vma], every: int, *, proc: Path = PROC) -> Sample:
    """Read all that ksmd could merge of these ranges, and keep a part of it.

    Raises:
        ProcessGone: it exited.
        KernelError: no right to read it, or to see page frames (CAP_SYS_ADMIN).
    """
    size, zero = page_size(), zero_content(page_size())
    limit, mask = (1 << HASH_BITS) // every, (1 << HASH_BITS) - 1
    contents, frames, in_huge = array("I"), array("Q"), array("B")
    shared: set[int] = set()
    for block in read_blocks(process, vmas, proc):
        is_huge, data = block.vma.huge_bytes > 0, memoryview(block.data)
        for index in range(len(data) // size):
            content = zlib.crc32(data[index * size : (index + 1) * size])
            frame = block.entries[index] & FRAME
            # Mixed, because similar numbers are alike in some bits. Zeroes are chosen by frame:
            # all or none of them would be in it otherwise.
            if (content if content != zero else frame) * HASH & mask >= limit:
                continue
            if not frame:
                raise KernelError(
                    f"the page frames of process {process.pid} are not told: CAP_SYS_ADMIN on the "
                    "node is needed"
                )
            contents.append(content)
            frames.append(frame)
            in_huge.append(is_huge)
            if not block.entries[index] & MAPPED_ONCE:
                shared.add(frame)
    counts = _mapped(sorted(shared), proc)
    return Sample(
        process, contents, frames, array("Q", (counts.get(one, 1) for one in frames)), in_huge
    )


def zero_content(size: int) -> int:
    """The checksum of a page of zeroes."""
    return zlib.crc32(bytes(size))


def _mapped(frames: list[int], proc: Path) -> dict[int, int]:
    """How often each of these frames is mapped."""
    if not frames:
        return {}
    with ExitStack() as files:
        words = read_words(open_node_file("kpagecount", files, proc), frames)
    return dict(zip(frames, words, strict=True))


def _every(vmas: Iterable[Vma]) -> int:
    """One content of so many, so that about `SAMPLE_PAGES` are kept."""
    pages = sum(vma.anonymous_bytes for vma in vmas) // page_size()
    return 1 << max(0, math.ceil(math.log2(max(1, pages) / SAMPLE_PAGES)))


def _ranges(processes: Iterable[Process], proc: Path) -> Iterable[tuple[Process, list[Vma]]]:
    """The ranges of each that hold anything; whoever cannot be looked at is passed over."""
    for process in processes:
        try:
            yield process, [vma for vma in read_vmas(process, proc=proc) if can_be_read(vma)]
        except KernelError:
            continue


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
    pool = _Pool()
    for sample in samples:
        pool.add(sample)
    verdicts: dict[Process, Worth] = {}
    left = {one.process: one for one in samples if one.process in candidates}
    while True:
        losers = []
        for process, sample in left.items():
            verdicts[process] = pool.worth(sample, candidates[process], every, size)
            if not verdicts[process].pays:
                losers.append(process)
        if not losers:
            return verdicts
        for process in losers:
            pool.remove(left.pop(process))


class _Pool:
    """Page frames of processes that are merged with each other.

    A frame is freed by merging only if all who map it are in the pool: otherwise those outside keep
    it, and merging saves nothing of it.
    """

    def __init__(self) -> None:
        self._zero = zero_content(page_size())
        self._inside: Counter[int] = Counter()
        """Mappings of each frame by processes in the pool."""
        self._whole: Counter[int] = Counter()
        """By content, frames that nobody outside maps."""

    def add(self, sample: Sample) -> None:
        for content, frame, count in zip(
            sample.contents, sample.frames, sample.counts, strict=True
        ):
            before = self._inside[frame]
            self._inside[frame] = before + 1
            # The kernel's page of zeroes is nobody's, and whole from its first mapping on.
            self._whole[content] += before + 1 == max(1, count)

    def remove(self, sample: Sample) -> None:
        for content, frame, count in zip(
            sample.contents, sample.frames, sample.counts, strict=True
        ):
            before = self._inside[frame]
            self._inside[frame] = before - 1
            self._whole[content] -= before == max(1, count)

    def worth(self, sample: Sample, huge: int, every: int, size: int) -> Worth:
        held = saved = squares = 0.0
        parts: dict[int, float] = {}
        own: dict[int, set[int]] = {}
        rows = zip(sample.contents, sample.frames, sample.counts, sample.in_huge, strict=True)
        for content, frame, count, is_huge in rows:
            if not is_huge or not count:
                continue
            part = 1 / count
            held += part
            if self._inside[frame] >= count:
                parts[content] = parts.get(content, 0.0) + part
                own.setdefault(content, set()).add(frame)
                if content == self._zero:
                    squares += part * part
        for content, frames in own.items():
            # One copy has to be kept: another's, if there is one.
            kept = 0.0 if self._whole[content] > len(frames) else parts[content] / len(frames)
            saved += parts[content] - kept
            if content != self._zero:
                squares += (parts[content] - kept) ** 2
        return Worth(huge, estimate(saved, squares, every, size), saved / held if held else 0.0)
