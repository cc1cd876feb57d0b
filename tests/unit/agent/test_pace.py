"""How often all memory is scanned, and why."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.agent.pace import (
    BURST_SCANS,
    LONGEST_PERIOD,
    MOST_FIRST_PERIOD,
    MOST_SCANS,
    SHORTEST_PERIOD,
    THOROUGH_SECONDS,
    Pace,
    begin,
    follow,
)
from ksm_operator.agent.patience import pause
from ksm_operator.agent.worth import PRICE, SCANS_UNTIL_MERGED
from unit.agent.readings import GIB, GROWTH, PAGE, START, at_rest, grown, later, resume, scanned


def test_a_burst_sees_every_page_twice() -> None:
    """Nothing merges before its second look, and the first scan was under way already."""
    pace, reading = at_rest()
    assert reading.full_scans - START.full_scans == BURST_SCANS
    pace = follow(pace, reading := later(reading, news=1), PAGE)
    ends = 0
    while not pace.period:
        pace = follow(pace, reading := scanned(reading), PAGE)
        ends += 1
    assert ends == BURST_SCANS


def test_a_burst_in_old_memory_ends_with_a_whole_thorough_scan() -> None:
    """A page that smart scan passes over cannot meet its like among the new ones."""
    pace, reading, thorough = begin(START), START, []
    while not pace.period:
        reading = scanned(reading, seconds=0.5)
        thorough.append(pace.thorough)
        pace = follow(pace, reading, PAGE)
    # Of scans that are so short one may have begun before it was told.
    assert thorough == [False, False, True, True]


def test_what_grows_much_during_a_burst_shares_its_scans() -> None:
    """A burst of its own would see all else again."""
    pace, reading = begin(START), START
    for _ in range(BURST_SCANS - 1):
        reading = scanned(reading, saved=GIB // 8, news=1, **grown(GIB))
        pace = follow(pace, reading, PAGE)
    before, last = reading.full_scans, scanned(reading)
    assert not pace.period
    assert not pace.thorough
    pace = follow(pace, last, PAGE)
    assert last.full_scans == before + 1
    assert pace.thorough, "it has had its second look"


def test_a_burst_is_not_drawn_out_for_what_is_not_worth_it() -> None:
    """Each scan goes over all there is; those who came since it began wait for the next one."""
    pace, reading = begin(START), START
    reading = scanned(reading, saved=GIB // 8, news=1)
    pace = follow(pace, reading, PAGE)
    little = follow(pace, scanned(reading, news=1, **grown(GROWTH)), PAGE)
    much = follow(pace, scanned(reading, news=1, **grown(GIB)), PAGE)
    assert little.thorough, "it is at its last scan, in which old pages meet new ones"
    assert not much.thorough
    # Who came before the scan that has just ended began has its second look in the next one.
    assert little.news == much.news == reading.news


def test_newcomers_do_not_put_the_thorough_scan_off_for_ever() -> None:
    """Where a container comes every second, pages that are passed over meet their like too."""
    pace, reading = begin(START), START
    while not pace.thorough:
        reading = scanned(reading, news=1, **grown(GIB))
        pace = follow(pace, reading, PAGE)
        assert not pace.period
    assert reading.full_scans - START.full_scans <= MOST_SCANS


def test_what_waited_has_had_its_looks_before_the_last_scan_is_over() -> None:
    """A new process is put behind the place that ksmd has come to, which is passed twice soon."""
    pace, reading = at_rest()
    reading = replace(later(reading, news=1), at=resume(pace) - 1)
    pace = follow(pace, reading, PAGE)
    pace = follow(pace, reading := later(reading), PAGE)
    for _ in range(BURST_SCANS - 1):
        pace = follow(pace, reading := scanned(reading, cpu=1.0), PAGE)
    assert not follow(pace, later(reading, cpu=0.1), PAGE).period
    assert follow(pace, later(reading, cpu=0.3), PAGE).period


def in_new_memory(**found: float) -> int:
    """How many scans ended in the first burst on a node."""
    pace, reading = begin(replace(START, known=0)), replace(START, known=GIB // 4)
    ends = 0
    while not pace.period:
        reading = scanned(reading, seconds=0.5, **found)
        pace = follow(pace, reading, PAGE)
        assert not pace.thorough
        ends += 1
    return ends


def test_new_memory_alone_needs_no_thorough_scan() -> None:
    """Nothing of it was ever passed over; a scan costs the most where nothing merges."""
    assert in_new_memory() == BURST_SCANS - 1


def test_new_memory_that_merges_is_looked_at_once_more() -> None:
    """Programs that start together fill their memory while the first scan is under way."""
    assert in_new_memory(saved=GIB // 8) == BURST_SCANS


def test_whoever_waits_for_counters_does_not_wait_for_a_pause() -> None:
    """Before Linux 6.6 only scans tell how much of a process is still merged; a release waits."""
    pace, reading = at_rest()
    hurried = replace(reading, at=resume(pace) - 1, hurry=True)
    pace = follow(pace, hurried, PAGE)
    for _ in range(10):
        assert not pace.period
        hurried = scanned(hurried)
        pace = follow(pace, hurried, PAGE)


def test_the_first_scan_after_a_burst_costs_little() -> None:
    """Small memory is looked at again at once, large memory within a minute."""
    assert at_rest(cpu=0.001)[0].period == SHORTEST_PERIOD
    assert at_rest(cpu=0.5)[0].period == pytest.approx(25)
    assert at_rest(cpu=30.0)[0].period == MOST_FIRST_PERIOD


def test_a_burst_that_found_nothing_is_followed_by_a_long_rest() -> None:
    """Memory that is unlike any other costs next to nothing from then on."""
    pace, reading = begin(START), START
    while not pace.period:
        reading = scanned(reading, cpu=0.1)
        pace = follow(pace, reading, PAGE)
    assert pace.period == MOST_FIRST_PERIOD


def test_of_many_scans_in_one_second_each_counts() -> None:
    """Small memory is scanned many times between two looks."""
    pace, reading = begin(START), START
    while not pace.period:
        reading = later(reading, full_scans=50, cpu=5.0, saved=GIB)
        pace = follow(pace, reading, PAGE)
    assert pace.period == pytest.approx(5)


def test_scans_that_find_nothing_become_rare() -> None:
    """Each costs CPU for nothing."""
    pace, reading = at_rest()
    for _ in range(10):
        reading = scanned(reading, seconds=pace.period)
        pace = follow(pace, reading, PAGE)
    assert pace.period == LONGEST_PERIOD


def steadily(rate: float, *, cpu: float, scans: int = 100) -> Pace:
    """The pace where so many bytes become alike in each second."""
    pace, reading = at_rest()
    for _ in range(scans):
        reading = scanned(reading, seconds=pace.period, cpu=cpu, saved=int(rate * pace.period))
        pace = follow(pace, reading, PAGE)
    return pace


def test_scans_that_pay_become_frequent() -> None:
    """What changes is found at the pace at which that pays."""
    assert steadily(GIB // 64, cpu=0.01).period == SHORTEST_PERIOD


@pytest.mark.parametrize("cpu", [0.1, 1.0])
def test_memory_held_for_longer_costs_as_much_as_the_scans(cpu: float) -> None:
    """More scans would cost more than they give back sooner, and fewer the other way round."""
    rate = GIB // 512
    period = steadily(rate, cpu=cpu).period
    held = SCANS_UNTIL_MERGED * period * rate
    assert held == pytest.approx(PRICE * cpu / period, rel=0.05)


def test_what_a_scan_costs_is_told_by_those_of_its_kind() -> None:
    """After a burst scans take a fifth of the CPU, and a thorough one is followed by such again."""
    pace, reading = at_rest(cpu=1.0)
    pace = follow(pace, reading := scanned(reading, cpu=0.1), PAGE)
    assert pace.cost == pytest.approx(0.1)
    after = follow(replace(pace, thorough=True), scanned(reading, cpu=1.0), PAGE)
    assert after.cost == pace.cost


def test_the_pace_follows_what_many_scans_find() -> None:
    """Smart scan passes over pages, so that one scan finds much and the next one nothing."""
    pace, reading = at_rest()
    periods = list[float]()
    for number in range(60):
        found = number % 4 == 0
        reading = scanned(reading, seconds=pace.period, cpu=0.1, saved=GIB // 64 if found else 0)
        pace = follow(pace, reading, PAGE)
        periods.append(pace.period)
    assert max(periods[20:]) < 2 * min(periods[20:])


def test_at_rest_some_scans_pass_over_nothing() -> None:
    """Smart scan makes a scan cheap, but what it passes over does not meet its like."""
    pace, reading = at_rest()
    scans, thorough = 0, 0
    began = reading.at
    while reading.at < began + 10 * THOROUGH_SECONDS:
        reading = scanned(reading, seconds=10.0, saved=GIB // 64)
        scans, thorough = scans + 1, thorough + pace.thorough
        pace = follow(pace, reading, PAGE)
    assert thorough == pytest.approx(10, abs=1)
    assert scans > 10 * thorough


LEVELS = ("saved", "known", "anonymous", "charged")
Change = st.fixed_dictionaries(
    {
        "full_scans": st.integers(0, 3),
        "cpu": st.floats(0, 1),
        "breaks": st.integers(0, 10_000),
        "news": st.integers(0, 2),
        "saved": st.integers(-GIB, GIB),
        "known": st.integers(-GIB, GIB),
        "anonymous": st.integers(-GIB, GIB),
        "charged": st.integers(-GIB, GIB),
    }
)


@given(st.lists(Change, max_size=60))
def test_the_pace_is_never_out_of_bounds(changes: list[dict[str, float]]) -> None:
    """Whatever is measured, in whatever order."""
    pace, reading = begin(START), START
    for change in changes:
        reading = later(reading, **change)
        floor = {name: max(0, getattr(reading, name)) for name in LEVELS}
        reading = replace(reading, **floor)
        pace = follow(pace, reading, PAGE)
        assert pace.period == 0 or SHORTEST_PERIOD <= pace.period <= LONGEST_PERIOD
        assert 1 <= pace.growth <= 8
        assert pause(pace, PAGE, came=True) >= pause(pace, PAGE, came=False) >= 0


@given(st.integers(1, 20))
def test_a_burst_ends_when_nothing_is_new_and_nothing_is_found(cpu: int) -> None:
    """A controller that could go on for ever would be no limit to itself."""
    pace, reading = begin(START), START
    for _ in range(5):
        reading = scanned(reading, cpu=float(cpu))
        pace = follow(pace, reading, PAGE)
    assert pace.period


def test_the_end_of_a_scan_that_a_burst_began_says_nothing() -> None:
    """A program may fill its memory a moment after the burst: within a minute it is looked at."""
    pace, reading = begin(replace(START, known=0)), replace(START, known=GIB // 4)
    while not pace.period:
        pace = follow(pace, reading := scanned(reading), PAGE)
    assert pace.period == MOST_FIRST_PERIOD
    pace = follow(pace, reading := scanned(reading, seconds=2.0, cpu=0.01), PAGE)
    assert pace.period == MOST_FIRST_PERIOD
    whole = follow(pace, scanned(reading, seconds=MOST_FIRST_PERIOD), PAGE)
    assert whole.period > MOST_FIRST_PERIOD


def test_the_first_whole_scan_after_a_burst_tells_what_scans_cost() -> None:
    """Those of a burst cost more, and the end of the one that it ended amid next to nothing."""
    pace, reading = at_rest(cpu=5.0)
    reading = replace(reading, at=pace.done.at)
    pace = follow(pace, reading := scanned(reading, seconds=1.0, cpu=0.01), PAGE)
    assert pace.cost == pytest.approx(5.0)
    pace = follow(pace, scanned(reading, seconds=pace.period, cpu=0.3), PAGE)
    assert pace.cost == pytest.approx(0.3)
