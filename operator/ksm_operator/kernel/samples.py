"""A part of what processes hold, chosen so that what is the same in two is in both parts.

What merging would give back has to be known before anything is merged, hence from what the pages
hold. They are read once; those kept are chosen by their content, so that two processes with the
same page have it in both samples or in neither: of pages chosen by place, two with the same content
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
from ksm_operator.kernel.errors import KernelError
from ksm_operator.kernel.frames import FRAME, HASH, HASH_BITS, open_node_file, read_words
from ksm_operator.kernel.procfs import PROC, Process, page_size
from ksm_operator.kernel.smaps import read_vmas

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator
    from pathlib import Path

    from ksm_operator.kernel.smaps import Vma

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


def without_pause() -> None:
    """Read on at once."""


def take_sample(
    process: Process,
    vmas: Iterable[Vma],
    every: int,
    *,
    by_frame: Container[int] = (),
    counted: Counter[int] | None = None,
    pause: Callable[[], None] = without_pause,
    proc: Path = PROC,
) -> Sample:
    """Read all that ksmd could merge of these ranges, and keep a part of it.

    Args:
        process: who.
        vmas: its ranges.
        every: one content of so many is kept.
        by_frame: contents of which one frame of so many is kept, zeroes aside, of which it always
            is: with a content that is there a thousand times, all of them would be kept or none.
        counted: where to count the contents of one frame of so many: who wants to know what is
            frequent.
        pause: called after each block, of a MiB at most; what it raises ends the reading.
        proc: the proc file system.

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
            # Mixed, because similar numbers are alike in some bits.
            if counted is not None and frame * HASH & mask < limit:
                counted[content] += 1
            is_by_frame = content == zero or content in by_frame
            if (frame if is_by_frame else content) * HASH & mask >= limit:
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
        pause()
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


def every_for(vmas: Iterable[Vma], most_pages: int = SAMPLE_PAGES) -> int:
    """One content of so many, so that of these ranges about so many pages are kept."""
    pages = sum(vma.anonymous_bytes for vma in vmas) // page_size()
    return 1 << max(0, math.ceil(math.log2(max(1, pages) / most_pages)))


def readable(process: Process, proc: Path = PROC) -> list[Vma]:
    """The ranges that hold anything.

    Raises:
        ProcessGone: it exited.
        KernelError: no right to look.
    """
    return [vma for vma in read_vmas(process, proc=proc) if can_be_read(vma)]


def readable_ranges(
    processes: Iterable[Process], proc: Path = PROC
) -> Iterator[tuple[Process, list[Vma]]]:
    """The same of each; whoever cannot be looked at is passed over.

    Let go of one's before asking for the next: those of thousands would be 10 MiB.
    """
    for process in processes:
        try:
            yield process, readable(process, proc)
        except KernelError:
            continue


class Pool:
    """Page frames of processes that are merged with each other.

    A frame is freed by merging only if all who map it are in the pool: otherwise those outside keep
    it, and merging saves nothing of it.

    Attributes:
        whole: by content, frames that nobody outside maps.
        zero: the checksum of a page of zeroes.
    """

    def __init__(self, samples: Iterable[Sample] = ()) -> None:
        """Put these together."""
        self.zero = zero_content(page_size())
        self.whole: Counter[int] = Counter()
        self._inside: Counter[int] = Counter()
        """Mappings of each frame by processes in the pool."""
        for sample in samples:
            self.add(sample)

    def add(self, sample: Sample) -> None:
        """Have its process among those that are merged."""
        for content, frame, count in zip(
            sample.contents, sample.frames, sample.counts, strict=True
        ):
            before = self._inside[frame]
            self._inside[frame] = before + 1
            # The kernel's page of zeroes is nobody's, and whole from its first mapping on.
            self.whole[content] += before + 1 == max(1, count)

    def remove(self, sample: Sample) -> None:
        """Have its process no more among them."""
        for content, frame, count in zip(
            sample.contents, sample.frames, sample.counts, strict=True
        ):
            before = self._inside[frame]
            self._inside[frame] = before - 1
            self.whole[content] -= before == max(1, count)

    def is_whole(self, frame: int, count: int) -> bool:
        """Whether all of so many mappings of a frame are in the pool."""
        return self._inside[frame] >= count
