"""What the figures of a run are."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.governor.outcome import Outcome, Sample, best_final, integral, ratio

MIB = 1 << 20


def line(*saved: int, seconds: float = 1.0, cpu: float = 0.0, breaks: int = 0) -> Outcome:
    """A run with these savings in MiB, one after the other."""
    samples = [
        Sample(at=seconds * number, saved=one * MIB, net=one * MIB // 2, ksmd=cpu, breaks=breaks)
        for number, one in enumerate(saved)
    ]
    return Outcome(tuple(samples), cost=1e-6)


def test_a_saving_counts_for_as_long_as_it_lasts() -> None:
    """Memory that is given back early is worth more than the same late."""
    assert line(0, 100, 100, 100).saved == 250 * MIB
    assert line(0, 0, 0, 100).saved == 50 * MIB
    assert line(0, 100, 100, 100).net == 125 * MIB


def test_samples_that_came_late_count_for_what_they_are() -> None:
    """A busy machine looks later than it should."""
    assert line(100, 100, seconds=1.5).saved == 150 * MIB


def test_copies_of_merged_pages_are_part_of_the_cost() -> None:
    """They are made by the programs, because of the merging."""
    one = line(0, 100, cpu=0.5, breaks=500_000)
    assert one.copying == pytest.approx(0.5)
    assert one.cpu == pytest.approx(1.0)
    assert one.cpu_share == pytest.approx(1.0)
    assert one.worth == pytest.approx(25 * MIB)


def test_what_goes_on_after_the_start_is_told_apart() -> None:
    """A start is paid once, and a run has an end."""
    samples = [
        Sample(at=at, saved=0, net=0, ksmd=cpu, breaks=breaks)
        for at, cpu, breaks in ((0, 0.0, 0), (4, 2.0, 5), (5, 2.0, 10), (10, 2.5, 20))
    ]
    assert Outcome(tuple(samples), cost=0.1).late_cpu_share == pytest.approx((0.5 + 1.0) / 5)


def test_who_saves_nothing_is_worth_nothing() -> None:
    """With and without having tried."""
    assert line(0, 0, cpu=3.0).worth == 0
    assert line(0, 0).worth == 0


def test_records_can_cost_more_than_is_saved() -> None:
    """Then no CPU second was worth anything."""
    samples = [Sample(at=at, saved=MIB, net=-MIB, ksmd=at, breaks=0) for at in (0.0, 1.0)]
    assert Outcome(tuple(samples)).worth == 0


def test_more_for_a_cpu_second_must_not_come_of_less_saving() -> None:
    """Three in a hundred are no difference; more are."""
    other = line(100, 100, cpu=1.0)
    assert line(97, 97, cpu=0.5).beats(other, 1.5)
    assert not line(96, 96, cpu=0.5).beats(other, 1.5)
    assert not line(100, 100, cpu=0.9).beats(other, 1.5)
    assert line(100, 100, cpu=1.0).beats(line(0, 0, cpu=1.0), 1.5), "who saves nothing is beaten"
    assert not line(0, 0).beats(line(0, 0), 1.0), "by somebody"
    slow = line(0, 0, 100, 100, 100, cpu=0.5)
    assert slow.beats(line(100, 100, 100, 100, 100, cpu=1.5), 1.5), "later it has the same"


def test_the_saving_at_the_end_is_a_mean() -> None:
    """What is written to all the time goes up and down."""
    saved = [0, *[100] * 17, 80, 120, 100]
    assert line(*saved).final == 100 * MIB
    assert best_final([line(*saved), line(0, 150)]) == 150 * MIB


def test_how_long_it_took() -> None:
    """To nine tenths of the best that any algorithm came to."""
    one = line(0, 50, 89, 90, 100)
    assert one.reached(100 * MIB) == 3
    assert one.reached(200 * MIB) is None
    assert one.reached(0) is None, "nothing to reach"


def test_huge_pages_that_were_split_show() -> None:
    """The most at any time against what is left."""
    samples = [
        Sample(at=at, saved=0, net=0, ksmd=0, breaks=0, huge=huge)
        for at, huge in enumerate((0, 64, 32))
    ]
    assert Outcome(tuple(samples)).huge == (64, 32)


def test_a_ratio_to_nothing() -> None:
    """Peers that never start save nothing for nothing."""
    assert ratio(2, 4) == 0.5
    assert ratio(1, 0) == math.inf
    assert ratio(1, -1) == math.inf
    assert math.isnan(ratio(0, 0))
    assert math.isnan(ratio(-1, 0))


@given(st.lists(st.integers(0, 10**9), min_size=2), st.integers(1, 5))
def test_the_area_lies_between_its_bounds(saved: list[int], seconds: int) -> None:
    """Whatever the line, it is no more than the highest value all the time, and no less than 0."""
    samples = [
        Sample(at=seconds * number, saved=one, net=-one, ksmd=0, breaks=0)
        for number, one in enumerate(saved)
    ]
    length = samples[-1].at
    area = integral(samples, lambda one: one.saved)
    assert min(saved) * length * (1 - 1e-9) <= area <= max(saved) * length * (1 + 1e-9)
    assert integral(samples, lambda one: one.net) == pytest.approx(-area)
