"""What splitting huge pages gives, computed from samples."""

from array import array
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.kernel import Process
from ksm_operator.kernel.huge_pages import (
    WORTH_SHARE,
    Sample,
    judge,
    lives_in_huge_pages,
    zero_content,
)
from ksm_operator.kernel.smaps import Vma

SIZE = 4096
MIB = 1 << 20


def sample(pid: int, contents: Sequence[int], every: int = 1) -> Sample:
    """Pages of its own with these contents, all in huge pages."""
    frames = array("Q", range(pid << 20, (pid << 20) + len(contents)))
    huge = array("B", [1] * len(contents))
    return Sample(Process(pid, 1), every, array("I", contents), frames, huge)


def all_of(samples: Sequence[Sample]) -> dict[Process, int]:
    """Everybody's huge pages are at stake."""
    return {one.process: len(one.contents) * SIZE for one in samples}


PROCESSES = st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=30), max_size=6).map(
    lambda lists: [sample(pid + 1, contents) for pid, contents in enumerate(lists)]
)


@given(PROCESSES)
def test_one_gives_what_the_node_would_need_less(samples: list[Sample]) -> None:
    """Counted anew from the contents: pages without it merged, and with it merged."""
    for one in samples:
        others = {content for each in samples if each is not one for content in each.contents}
        kept = len(set(one.contents) - others)
        (worth,) = judge(samples, {one.process: 1}, SIZE).values()
        assert worth.saved.size == (len(one.contents) - kept) * SIZE
        assert worth.saved.error == 0


@given(PROCESSES)
def test_who_pays_pays_without_those_who_do_not(samples: list[Sample]) -> None:
    """They will not be merged, so nobody can count on sharing with them."""
    worth = judge(samples, all_of(samples), SIZE)
    winners = [one for one in samples if worth[one.process].pays]
    again = judge(winners, all_of(winners), SIZE)
    assert all(again[one.process] == worth[one.process] for one in winners)


@given(PROCESSES)
def test_nobody_is_left_out_whom_others_would_have_paid(samples: list[Sample]) -> None:
    """Two that share everything with each other alone are worth it only together."""
    twins = [sample(100, range(50, 60)), sample(101, range(50, 60))]
    worth = judge([*samples, *twins], all_of([*samples, *twins]), SIZE)
    assert all(worth[one.process].pays for one in twins)


@given(PROCESSES)
def test_all_are_told(samples: list[Sample]) -> None:
    """A status names everybody who was left alone, with the figure."""
    worth = judge(samples, all_of(samples), SIZE)
    assert set(worth) == {one.process for one in samples}
    assert all(0.0 <= one.share <= 1.0 for one in worth.values())
    assert all(one.pays == (one.share >= WORTH_SHARE) for one in worth.values())


def test_zeroes_count_once_each_however_few_others_are_sampled() -> None:
    """All of them are in the sample, so they do not stand for others."""
    zero = zero_content(SIZE)
    one = sample(1, [zero] * 100 + [7], every=8)
    (worth,) = judge([one], {one.process: 1}, SIZE).values()
    assert worth.saved.size == 99 * SIZE
    assert worth.share == 99 / 108


def test_pages_of_small_ranges_are_partners_and_not_at_stake() -> None:
    """What it has in small pages costs no huge page, and can be what others share."""
    one = sample(1, [1, 2, 3, 3])
    one.in_huge[2] = 0
    (worth,) = judge([one], {one.process: 1}, SIZE).values()
    assert worth.saved.size == SIZE
    assert worth.share == 1 / 3


def test_who_lives_in_huge_pages() -> None:
    """Half of its memory: a program with one huge page by chance does not depend on it."""

    def vma(anonymous: int, huge: int) -> Vma:
        return Vma(0, 64 * MIB, "", frozenset(), anonymous, anonymous, 0, huge_bytes=huge)

    assert lives_in_huge_pages([vma(4 * MIB, 4 * MIB), vma(4 * MIB, 0)])
    assert not lives_in_huge_pages([vma(4 * MIB, 2 * MIB), vma(4 * MIB, 0)])
    assert not lives_in_huge_pages([])
    assert not lives_in_huge_pages([vma(0, 0)])
