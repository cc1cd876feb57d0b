"""What merging gives back in all, computed from samples."""

import math
from array import array
from collections import Counter
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.kernel import Estimate, Process
from ksm_operator.kernel.procfs import page_size
from ksm_operator.kernel.samples import Sample, zero_content
from ksm_operator.kernel.saving import between, saving, steady, without_huge_pages

SIZE = page_size()
ZERO = zero_content(SIZE)

PIDS = st.frozensets(st.integers(0, 4), min_size=1, max_size=3)
MACHINES = st.lists(st.tuples(st.integers(0, 6), PIDS), max_size=40)
"""Frames with a content each, and who maps them; process 0 is no part of any of it."""


def sample(pid: int, rows: Sequence[tuple[int, int, int]]) -> Sample:
    """Pages as content, frame and number of mappings."""
    contents, frames, counts = list(zip(*rows, strict=True)) or [(), (), ()]
    return Sample(
        Process(pid, 1),
        array("I", contents),
        array("Q", frames),
        array("Q", counts),
        array("B", [0] * len(rows)),
    )


def samples(machine: Sequence[tuple[int, frozenset[int]]]) -> list[Sample]:
    """What each process shows."""
    return [
        sample(
            pid,
            [
                (content, number + 1, len(mappers))
                for number, (content, mappers) in enumerate(machine)
                if pid in mappers
            ],
        )
        for pid in range(1, 5)
    ]


@given(MACHINES, st.none() | st.integers(2, 5))
def test_it_is_what_the_machine_needs_less(
    machine: list[tuple[int, frozenset[int]]], limit: int | None
) -> None:
    """Frame by frame: one copy of each content stays, or one for so many that may share it."""
    freed = Counter(content for content, mappers in machine if 0 not in mappers)
    kept = sum(1 if limit is None else math.ceil(count / limit) for count in freed.values())
    expected = (sum(freed.values()) - kept) * SIZE
    assert saving(samples(machine), 1, SIZE, max_page_sharing=limit) == Estimate(expected)


def test_what_fork_shares_is_given_back_once() -> None:
    """Two workers map one frame: merged with a third's, one frame goes and not two."""
    workers = [sample(pid, [(7, 1, 2)]) for pid in (1, 2)]
    assert saving(workers, 1, SIZE).size == 0
    assert saving([*workers, sample(3, [(7, 2, 1)])], 1, SIZE).size == SIZE


def test_pages_of_zeroes_need_no_copy_where_the_kernels_own_may_be_used() -> None:
    """With use_zero_pages the last of them goes too; the kernel's own was never anybody's."""
    zeroes = [sample(1, [(ZERO, frame, 1) for frame in range(1, 5)] + [(ZERO, 9, 0)])]
    assert saving(zeroes, 1, SIZE).size == 3 * SIZE
    assert saving(zeroes, 1, SIZE, use_zero_pages=True).size == 4 * SIZE
    assert saving(zeroes, 1, SIZE, max_page_sharing=2).size == 2 * SIZE


@given(st.integers(1, 6).map(lambda power: 1 << power), st.integers(1, 50))
def test_a_sample_stands_for_all(every: int, contents: int) -> None:
    """One of so many contents was kept, so each counts as many times; and the error is told."""
    rows = [(content, 2 * content + copy, 1) for content in range(contents) for copy in (0, 1)]
    told = saving([sample(1, rows)], every, SIZE)
    assert told.size == contents * every * SIZE
    assert told.error > 0


@given(st.lists(st.integers(0, 5)), st.lists(st.integers(0, 5)))
def test_steady_is_what_was_there_before(before: list[int], now: list[int]) -> None:
    """Ksmd merges no page that has changed since it was looked at last."""
    rows = [[(content, index + 1, 1) for index, content in enumerate(one)] for one in (before, now)]
    kept = steady(sample(1, rows[0]), sample(1, rows[1]), Counter())
    assert Counter(kept.contents) == Counter(before) & Counter(now)
    assert set(zip(kept.contents, kept.frames, strict=True)) <= {row[:2] for row in rows[1]}


def test_frequent_contents_count_frame_by_frame() -> None:
    """All or none of a thousand equal pages would be in the sample: a quarter of them always is."""
    rows = [(7, frame, 1) for frame in range(1, 251)]
    apart, together = (saving([sample(1, rows)], 4, SIZE, by_frame=one) for one in ({7}, ()))
    assert apart.size == 999 * SIZE
    assert together.size == 996 * SIZE
    assert apart.error < together.error / 10
    there = Counter({7: 100})
    assert len(steady(sample(1, []), sample(1, rows), there).contents) == 100
    assert there[7] == 0, "the next process has none left"


def test_without_huge_pages_the_rest_is_left() -> None:
    """By ranges, those with huge pages stay as they are."""
    one = sample(1, [(1, 1, 1), (2, 2, 1)])
    one.in_huge[0] = 1
    assert list(without_huge_pages(one).contents) == [2]


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(0, 1 << 20))
def test_the_error_covers_both_readings(one: int, other: int, error: int) -> None:
    """A person is told how far it may be off, with what changed between them."""
    least, most = Estimate(min(one, other), error), Estimate(max(one, other), error)
    told = between(least, most)
    assert told.size - told.error <= least.size - least.error
    assert told.size + told.error >= most.size + most.error
