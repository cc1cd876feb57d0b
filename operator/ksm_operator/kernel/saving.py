"""What merging some processes would give back, from samples of what they hold. Pure."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from typing import TYPE_CHECKING

from ksm_operator.kernel.samples import Pool, Sample
from ksm_operator.kernel.shares import Estimate, estimate

if TYPE_CHECKING:
    from collections.abc import Collection, Container


def saving(
    samples: Collection[Sample],
    every: int,
    size: int,
    *,
    by_frame: Container[int] = (),
    max_page_sharing: int | None = None,
    use_zero_pages: bool = False,
) -> Estimate:
    """Memory that these processes need less when all that is the same in them is merged.

    Frames are counted, so what fork shares, or ksmd has merged already, is given back once at most.

    Args:
        samples: of everybody who would be merged.
        every: one content of so many is in the samples.
        size: bytes of a page.
        by_frame: contents of which one frame of so many is, beside zeroes; see `take_sample`.
        max_page_sharing: most mappings of a merged page; None for no limit.
        use_zero_pages: the kernel's own page takes the place of those of zeroes.
    """
    pool = Pool(samples)
    # The kernel's own page of zeroes is nobody's to give back.
    pool.whole[pool.zero] -= any(0 in one.counts for one in samples)
    pages = squares = 0.0
    for content, frames in pool.whole.items():
        if frames <= 0:
            continue
        if content == pool.zero or content in by_frame:
            # Each came into the sample by itself.
            kept = max(1 / (max_page_sharing or math.inf), 1 / (frames * every))
            if content == pool.zero and use_zero_pages:
                kept = 0.0
            pages += frames * (1 - kept)
            squares += frames * (1 - kept) ** 2
        else:
            given = frames - math.ceil(frames / (max_page_sharing or frames))
            pages += given
            squares += given * given
    return estimate(pages, squares, every, size)


def steady(before: Sample, now: Sample, frequent: Counter[int]) -> Sample:
    """What a process still holds of what it held: ksmd merges no page that keeps changing.

    Contents are compared and not places, since the kernel moves pages.

    Args:
        before: what it held.
        now: what it holds.
        frequent: how often contents that are chosen by frame were there in all processes together;
            what this one has of them is taken away.
    """
    left = Counter(before.contents)
    kept = []
    for row, content in enumerate(now.contents):
        there = frequent if content in frequent else left
        if there[content] > 0:
            there[content] -= 1
            kept.append(row)
    return _rows(now, kept)


def without_huge_pages(sample: Sample) -> Sample:
    """What a process holds outside of ranges with huge pages."""
    return _rows(sample, [row for row, is_huge in enumerate(sample.in_huge) if not is_huge])


def _rows(sample: Sample, rows: Collection[int]) -> Sample:
    return Sample(
        sample.process,
        array("I", (sample.contents[row] for row in rows)),
        array("Q", (sample.frames[row] for row in rows)),
        array("Q", (sample.counts[row] for row in rows)),
        array("B", (sample.in_huge[row] for row in rows)),
    )


def between(least: Estimate, most: Estimate) -> Estimate:
    """The middle of two, with an error that covers both.

    Args:
        least: by what stayed as it was.
        most: by everything.
    """
    size = (least.size + most.size) // 2
    low, high = least.size - least.error, most.size + most.error
    return Estimate(size, max(size - low, high - size, 0))
