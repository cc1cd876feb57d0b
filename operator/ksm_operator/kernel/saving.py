"""What merging some processes would give back, from samples of what they hold. Pure."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from typing import TYPE_CHECKING

from ksm_operator.kernel.samples import Pool, Sample
from ksm_operator.kernel.shares import Estimate, estimate

if TYPE_CHECKING:
    from collections.abc import Collection


def saving(
    samples: Collection[Sample],
    every: int,
    size: int,
    *,
    max_page_sharing: int | None = None,
    use_zero_pages: bool = False,
) -> Estimate:
    """Memory that these processes need less when all that is the same in them is merged.

    Frames are counted, so what fork shares, or ksmd has merged already, is given back once at most.

    Args:
        samples: of everybody who would be merged.
        every: one content of so many is in the samples.
        size: bytes of a page.
        max_page_sharing: most mappings of a merged page; None for no limit.
        use_zero_pages: the kernel's own page takes the place of those of zeroes.
    """
    pool = Pool(samples)
    pages = squares = 0.0
    for content, frames in pool.whole.items():
        if content != pool.zero:
            given = frames - math.ceil(frames / (max_page_sharing or max(1, frames)))
            pages += given
            squares += given * given
    # They were chosen by frame, and the kernel's own page is nobody's to give back.
    zeroes = pool.whole[pool.zero] - any(0 in one.counts for one in samples)
    if use_zero_pages or zeroes <= 0:
        kept = 0.0
    elif max_page_sharing is None:
        kept = 1 / (zeroes * every)
    else:
        kept = max(1 / max_page_sharing, 1 / (zeroes * every))
    pages += max(0, zeroes) * (1 - kept)
    squares += max(0, zeroes) * (1 - kept) ** 2
    return estimate(pages, squares, every, size)


def steady(before: Sample, now: Sample) -> Sample:
    """What a process still holds of what it held: ksmd merges no page that keeps changing.

    Contents are compared and not places, since the kernel moves pages.
    """
    left = Counter(before.contents)
    kept = []
    for row, content in enumerate(now.contents):
        if left[content] > 0:
            left[content] -= 1
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
