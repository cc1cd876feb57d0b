"""How often all memory is scanned, and why."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.agent.pace import (
    BURST_SCANS,
    LEAST_GROWTH,
    LEAST_SHARE,
    LONGEST_LIFE,
    LONGEST_PERIOD,
    MOST_FIRST_PERIOD,
    MOST_SCANS,
    MOST_SHARE,
    PRICE,
    SHORTEST_PERIOD,
    Pace,
    Reading,
    burst,
    follow,
    merged,
    value,
)

PAGE = 4096
GIB = 1 << 30
START = Reading(
    at=0.0,
    cpu=0.0,
    full_scans=10,
    breaks=0,
    news=1,
    saved=0,
    known=GIB // 4,
    anonymous=GIB,
    charged=GIB,
    available_percent=50.0,
)


def later(before: Reading, seconds: float = 1.0, **changes: float) -> Reading:
    """A reading some time after another, with more of some things."""
    added = {name: getattr(before, name) + more for name, more in changes.items()}
    after = replace(before, at=before.at + seconds, **added)
    return replace(after, merged=merged(before, after.saved, after.breaks, PAGE))


def scanned(before: Reading, *, seconds: float = 10.0, cpu: float = 1.0, **more: float) -> Reading:
    """A reading at the end of one more scan."""
    return later(before, seconds, full_scans=1, cpu=cpu, **more)


def grown(by: float) -> dict[str, float]:
    """Memory of containers that merge, by so many bytes."""
    return {"anonymous": by, "charged": by}


def at_rest(reading: Reading = START, *, cpu: float = 1.0) -> tuple[Pace, Reading]:
    """The pace some time after a burst that paid, whose last scan found nothing."""
    pace = burst(reading)
    reading = scanned(reading, saved=GIB)
    pace = follow(pace, reading, PAGE)
    while not pace.period:
        reading = scanned(reading, cpu=cpu)
        pace = follow(pace, reading, PAGE)
    return pace, replace(reading, at=pace.resume)


def test_a_burst_sees_every_page_twice() -> None:
    """Nothing merges before its second look, and the first scan was under way already."""
    pace, reading = at_rest()
    assert reading.full_scans - START.full_scans == 3
    assert pace.thorough


def test_a_burst_in_old_memory_ends_with_a_whole_thorough_scan() -> None:
    """A page that smart scan passes over cannot meet its like among the new ones."""
    pace, reading, thorough = burst(START), START, []
    while not pace.period:
        reading = scanned(reading, seconds=0.5)
        thorough.append(pace.thorough)
        pace = follow(pace, reading, PAGE)
    # Of scans that are so short one may have begun before it was told.
    assert thorough == [False, False, True, True]


@pytest.mark.parametrize("before", [0, 1, 2])
def test_what_comes_during_a_burst_shares_its_scans(before: int) -> None:
    """It needs two whole scans after the present one; a burst of its own would see all else again.

    Args:
        before: scans that had ended by then, of the three of a burst.
    """
    pace, reading = burst(START), START
    for _ in range(before):
        reading = scanned(reading)
        pace = follow(pace, reading, PAGE)
    reading = came = later(reading, news=1)
    pace = follow(pace, reading, PAGE)
    while not pace.period:
        reading = scanned(reading, saved=GIB // 8)
        pace = follow(pace, reading, PAGE)
    assert reading.full_scans - came.full_scans == BURST_SCANS
    assert pace.thorough


def test_a_burst_is_not_drawn_out_for_what_is_not_worth_it() -> None:
    """Those who came since it began have their looks yet, at a part of the speed."""
    pace, reading = burst(START), START
    for _ in range(BURST_SCANS - 1):
        reading = scanned(reading, saved=GIB // 8, news=1)
        pace = follow(pace, reading, PAGE)
    assert not pace.period
    reading = scanned(reading, news=1)
    pace = follow(pace, reading, PAGE)
    assert pace.period
    assert pace.waiting == reading
    assert pace.share < MOST_SHARE
    for _ in range(BURST_SCANS):
        reading = scanned(reading)
        pace = follow(pace, reading, PAGE)
    assert pace.waiting is None
    assert pace.news == reading.news


def test_newcomers_do_not_put_the_thorough_scan_off_for_ever() -> None:
    """Where a container comes every second, pages that are passed over meet their like too."""
    pace, reading = burst(START), START
    while not pace.thorough:
        reading = scanned(reading, news=1, saved=GIB // 8)
        pace = follow(pace, reading, PAGE)
        assert not pace.period
    assert reading.full_scans - START.full_scans <= MOST_SCANS


def test_newcomers_do_not_keep_it_scanning_at_full_speed() -> None:
    """Each burst goes over all memory, however little is new; those who wait share their scans."""
    pace, reading, in_burst, seen_to = burst(START), START, 0, 0
    for second in range(600):
        # At a third of the speed a scan takes three times as long.
        ends = pace.period == 0 or (pace.waiting is not None and second % 3 == 0)
        reading = later(reading, full_scans=int(ends), cpu=0.1, news=1)
        pace = follow(pace, reading, PAGE)
        in_burst += not pace.period
        seen_to = max(seen_to, reading.news - pace.news)
    assert in_burst <= 600 * MOST_SHARE
    assert seen_to <= 8 * BURST_SCANS, "seconds until each newcomer was seen to"


def test_what_waits_has_its_two_looks_at_a_part_of_the_speed() -> None:
    """A pod that comes just after a burst shall not wait for the next one in vain."""
    pace, reading = at_rest()
    reading = came = replace(later(reading, news=1), at=pace.resume - 1)
    pace = follow(pace, reading, PAGE)
    assert pace.period
    assert pace.waiting == came
    assert not pace.thorough
    for _ in range(BURST_SCANS):
        assert pace.news < came.news
        reading = scanned(reading, seconds=0.1)
        pace = follow(pace, reading, PAGE)
    assert pace.news == came.news
    assert pace.period
    assert pace.thorough


def came_and_waited(pace: Pace, reading: Reading, **found: float) -> tuple[Pace, Reading]:
    """The pace after something that came too soon for a burst had its looks."""
    reading = replace(later(reading, news=1), at=pace.resume - 1)
    pace = follow(pace, reading, PAGE)
    for _ in range(BURST_SCANS):
        reading = scanned(reading, seconds=0.1, **found)
        pace = follow(pace, reading, PAGE)
    assert pace.waiting is None
    return pace, reading


def test_newcomers_that_are_not_worth_it_are_looked_at_more_slowly() -> None:
    """Each scan costs as much as any other, for next to nothing."""
    pace, reading = at_rest()
    for _ in range(10):
        pace, reading = came_and_waited(pace, reading)
    assert pace.share == LEAST_SHARE
    for _ in range(10):
        pace, reading = came_and_waited(pace, reading, saved=GIB // 8)
    assert pace.share == MOST_SHARE


def test_what_ends_soon_is_worth_little() -> None:
    """However much of it is merged: its program takes it along."""
    pace, reading = at_rest()
    found = GIB // 64
    lasting, _ = came_and_waited(pace, reading, saved=found)
    fleeting, _ = came_and_waited(pace, replace(reading, stay=20.0), saved=found)
    assert lasting.share == MOST_SHARE
    assert fleeting.share < MOST_SHARE


def test_new_memory_alone_needs_no_thorough_scan() -> None:
    """Nothing of it was ever passed over; a scan costs the most where nothing merges."""
    pace, reading = burst(replace(START, known=0)), replace(START, known=GIB // 4)
    ends = 0
    while not pace.period:
        reading = scanned(reading)
        pace = follow(pace, reading, PAGE)
        ends += 1
    assert ends == BURST_SCANS - 1
    assert pace.thorough


def test_whoever_waits_for_counters_does_not_wait_for_a_pause() -> None:
    """Before Linux 6.6 only scans tell how much of a process is still merged; a release waits."""
    pace, reading = at_rest()
    hurried = replace(reading, at=pace.resume - 1, hurry=True)
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
    pace, reading = burst(START), START
    while not pace.period:
        reading = scanned(reading, cpu=0.1)
        pace = follow(pace, reading, PAGE)
    assert pace.period == MOST_FIRST_PERIOD


def test_of_many_scans_in_one_second_each_counts() -> None:
    """Small memory is scanned many times between two looks."""
    pace, reading = burst(START), START
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


def test_scans_that_pay_become_frequent() -> None:
    """What changes slowly is found at the pace at which that pays."""
    pace, reading = at_rest()
    for _ in range(10):
        reading = scanned(reading, seconds=pace.period, saved=GIB // 8)
        pace = follow(pace, reading, PAGE)
    assert pace.period == SHORTEST_PERIOD


def test_a_scan_that_just_pays_changes_nothing() -> None:
    """Twice as often it would find half as much each time."""
    pace, reading = at_rest()
    just = int(1.5 * PRICE / LONGEST_LIFE)
    after = follow(pace, scanned(reading, saved=just), PAGE)
    assert after.period == pace.period


def test_a_little_growth_is_no_news() -> None:
    """Programs allocate and free all the time."""
    pace, reading = at_rest()
    assert follow(pace, later(reading, **grown(LEAST_GROWTH - 1)), PAGE).period
    assert not follow(pace, later(reading, **grown(LEAST_GROWTH)), PAGE).period


@pytest.mark.parametrize("elsewhere", ["anonymous", "charged"])
def test_growth_of_others_and_of_page_cache_is_no_news(elsewhere: str) -> None:
    """A virtual machine that fills its memory, or a pod that reads files all day."""
    pace, reading = at_rest()
    assert follow(pace, later(reading, **{elsewhere: 8 * LEAST_GROWTH}), PAGE).period


def test_what_is_written_to_is_no_growth() -> None:
    """It is charged to its program at once, and ksmd counts it as merged until it comes by."""
    pace, reading = at_rest()
    written = later(reading, **grown(8 * LEAST_GROWTH), breaks=8 * LEAST_GROWTH // PAGE)
    assert follow(pace, written, PAGE).period
    assert not follow(pace, later(written, **grown(LEAST_GROWTH)), PAGE).period


def test_growth_counts_from_the_least_there_was() -> None:
    """A program that ends makes room, and what then takes its place is new."""
    pace, reading = at_rest()
    less = later(reading, **grown(-GIB // 2))
    pace = follow(pace, less, PAGE)
    assert pace.period
    assert not follow(pace, later(less, **grown(LEAST_GROWTH)), PAGE).period


def test_growth_in_which_nothing_was_found_has_to_be_larger_next_time() -> None:
    """Somebody outside of the domain may grow and shrink for ever."""
    pace, reading = at_rest()
    reading = later(reading, **grown(LEAST_GROWTH))
    pace = follow(pace, reading, PAGE)
    while not pace.period:
        reading = scanned(reading)
        pace = follow(pace, reading, PAGE)
    assert pace.growth == 2
    reading = replace(reading, at=pace.resume)
    assert follow(pace, later(reading, **grown(1.5 * LEAST_GROWTH)), PAGE).period
    reading = later(reading, **grown(2 * LEAST_GROWTH))
    pace = follow(pace, reading, PAGE)
    assert not pace.period
    for _ in range(2):
        reading = scanned(reading, saved=GIB // 4)
        pace = follow(pace, reading, PAGE)
    while not pace.period:
        reading = scanned(reading)
        pace = follow(pace, reading, PAGE)
    assert pace.growth == 1


def test_what_lives_for_seconds_is_worth_little() -> None:
    """Merged and written to at once: nothing was saved, and each break costs a copy."""
    kept = value(START, scanned(START, saved=GIB // 4), PAGE)
    lost = value(START, scanned(START, saved=0, breaks=GIB // 4 // PAGE), PAGE)
    assert kept > 20
    assert lost < 1e-3


def test_memory_is_worth_more_when_it_is_scarce() -> None:
    """The last gigabyte of a node is the dearest."""
    found = scanned(START, saved=GIB // 100)
    scarce = replace(found, available_percent=5.0)
    assert value(START, scarce, PAGE) == pytest.approx(5 * value(START, found, PAGE))


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
    pace, reading = burst(START), START
    for change in changes:
        reading = later(reading, **change)
        floor = {name: max(0, getattr(reading, name)) for name in LEVELS}
        reading = replace(reading, **floor)
        pace = follow(pace, reading, PAGE)
        assert pace.period == 0 or SHORTEST_PERIOD <= pace.period <= LONGEST_PERIOD
        assert 1 <= pace.growth <= 8
        assert LEAST_SHARE <= pace.share <= MOST_SHARE


@given(st.integers(1, 20))
def test_a_burst_ends_when_nothing_is_new_and_nothing_is_found(cpu: int) -> None:
    """A controller that could go on for ever would be no limit to itself."""
    pace, reading = burst(START), START
    for _ in range(5):
        reading = scanned(reading, cpu=float(cpu))
        pace = follow(pace, reading, PAGE)
    assert pace.period
