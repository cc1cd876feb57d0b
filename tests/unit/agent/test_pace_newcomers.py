"""How long those who come soon after a burst wait for the next one."""

from dataclasses import replace

import pytest

from ksm_operator.agent.pace import (
    BURST_SCANS,
    FAIR_SHARE,
    JUDGED_SECONDS,
    LEAST_PAUSE,
    LEAST_SHARE,
    LONGEST_PAUSE,
    LONGEST_PERIOD,
    MOST_FIRST_PERIOD,
    MOST_SCANS,
    MOST_SHARE,
    THOROUGH_SECONDS,
    Pace,
    begin,
    follow,
    pause,
)
from ksm_operator.agent.reading import Reading
from ksm_operator.agent.worth import PRICE
from unit.agent.readings import GIB, GROWTH, PAGE, START, at_rest, grown, later, resume, scanned


def test_newcomers_do_not_keep_it_scanning_at_full_speed() -> None:
    """Each burst goes over all memory, however little is new; those who wait share their scans."""
    pace, reading, in_burst, seen_to = begin(START), START, 0, 0
    for _ in range(600):
        reading = later(reading, full_scans=int(pace.period == 0), cpu=0.1, news=1)
        pace = follow(pace, reading, PAGE)
        in_burst += not pace.period
        seen_to = max(seen_to, reading.news - pace.news)
    assert in_burst <= 600 * MOST_SHARE + MOST_SCANS
    longest = 2 * MOST_SCANS + MOST_SCANS / LEAST_SHARE
    assert seen_to <= longest, "seconds until each newcomer was seen to"


def test_what_comes_soon_after_a_burst_waits_for_the_next() -> None:
    """Two scans in a row merge what is there sooner than the same two spread out."""
    pace, reading = at_rest()
    reading = replace(later(reading, news=1), at=resume(pace) - 1)
    pace = follow(pace, reading, PAGE)
    assert pace.waiting
    assert pace.period == LONGEST_PERIOD
    reading = later(reading)
    pace = follow(pace, reading, PAGE)
    assert not pace.period
    assert pace.news == reading.news


def test_much_that_is_new_does_not_wait() -> None:
    """Pods of a roll-out come one after the other, and their memory is dear until it is merged."""
    pace, reading = at_rest()
    soon = replace(reading, at=resume(pace) - 60)
    assert follow(pace, later(soon, news=1, **grown(GROWTH)), PAGE).waiting
    assert not follow(pace, later(soon, news=1, **grown(GIB)), PAGE).period


def test_nobody_waits_once_what_was_new_has_gone() -> None:
    """A program that grew for a moment leaves nothing to scan for."""
    pace, reading = at_rest()
    soon = replace(reading, at=resume(pace) - 1)
    pace = follow(pace, more := later(soon, 0.5, **grown(GIB // 2)), PAGE)
    assert pace.waiting
    pace = follow(pace, later(more, **grown(-GIB // 2)), PAGE)
    assert not pace.waiting
    assert pace.period == MOST_FIRST_PERIOD


def came_and_waited(pace: Pace, reading: Reading, **found: float) -> tuple[Pace, Reading]:
    """The pace after something that came too soon for a burst had its looks."""
    reading = replace(later(reading, news=1), at=resume(pace) - 1)
    pace = follow(pace, reading, PAGE)
    reading = replace(reading, at=resume(pace))
    pace = follow(pace, reading, PAGE)
    while not pace.period:
        reading = scanned(reading, seconds=0.1, **found)
        pace = follow(pace, reading, PAGE)
    return pace, reading


def share(pace: Pace) -> float:
    """Of the time until the next burst may begin, what the last one took."""
    took = pace.done.at - pace.began.at
    return took / (took + pause(pace, PAGE))


def test_newcomers_that_are_not_worth_it_are_looked_at_more_rarely() -> None:
    """Each burst costs as much as any other, for next to nothing."""
    pace, reading = at_rest()
    nothing, _ = came_and_waited(pace, reading)
    assert share(nothing) == pytest.approx(LEAST_SHARE)
    much, _ = came_and_waited(pace, reading, saved=GIB // 8)
    assert share(much) == pytest.approx(MOST_SHARE)


@pytest.mark.parametrize(("worth", "times"), [(1 / 2, 1 / 2), (2, 2**0.5)])
def test_how_long_the_next_burst_waits_follows_what_the_last_was_worth(
    worth: float, times: float
) -> None:
    """Below its price faster than above: it is a loss then, and due to see whether it still is."""
    pace, reading = at_rest()
    cpu, stay = 1.0, 20.0
    priced = PRICE * cpu / stay
    fair, _ = came_and_waited(pace, replace(reading, stay=stay), saved=priced, cpu=cpu)
    other, _ = came_and_waited(pace, replace(reading, stay=stay), saved=worth * priced, cpu=cpu)
    assert share(fair) == pytest.approx(FAIR_SHARE)
    assert share(other) == pytest.approx(times * FAIR_SHARE)


def test_what_a_burst_was_worth_shows_a_while_later() -> None:
    """What it merged may be written to at once, like the caches of programs under load."""
    pace, reading = at_rest()
    pace, reading = came_and_waited(pace, reading, saved=GIB // 8)
    undone = later(reading, breaks=GIB // PAGE)
    assert share(follow(pace, undone, PAGE)) == pytest.approx(LEAST_SHARE)
    late = replace(undone, at=reading.at + JUDGED_SECONDS + 1)
    assert share(follow(pace, late, PAGE)) == pytest.approx(MOST_SHARE)


def test_after_new_memory_newcomers_wait_for_less() -> None:
    """The next burst passes over what this one looked at, so it takes a part of the time."""
    pace, reading = begin(replace(START, known=0)), replace(START, known=GIB // 4)
    while not pace.period:
        reading = scanned(reading)
        pace = follow(pace, reading, PAGE)
    assert pause(pace, PAGE) == LEAST_PAUSE * (reading.at - START.at)


def test_where_burst_follows_burst_few_of_them_are_thorough() -> None:
    """A thorough scan costs several times as much as one that passes over old pages."""
    pace, reading = at_rest()
    thorough, before = 0, reading.at
    for _ in range(100):
        scans = reading.full_scans
        pace, reading = came_and_waited(pace, reading)
        thorough += reading.full_scans - scans > BURST_SCANS
    assert thorough == pytest.approx((reading.at - before) / THOROUGH_SECONDS, abs=2)


def test_on_a_large_node_newcomers_do_not_wait_for_hours() -> None:
    """However little it was worth, the next burst begins within minutes where those are short."""
    pace, reading = begin(START), START
    while not pace.period:
        reading = scanned(reading, seconds=50, cpu=10.0)
        pace = follow(pace, reading, PAGE)
    assert pause(pace, PAGE) == LONGEST_PAUSE
    pace, reading = begin(START), START
    while not pace.period:
        reading = scanned(reading, seconds=600, cpu=100.0)
        pace = follow(pace, reading, PAGE)
    assert pause(pace, PAGE) == LEAST_PAUSE * (reading.at - START.at)


def test_what_ends_soon_is_worth_little() -> None:
    """However much of it is merged: its program takes it along."""
    pace, reading = at_rest()
    found = GIB // 200
    lasting, _ = came_and_waited(pace, reading, saved=found)
    fleeting, _ = came_and_waited(pace, replace(reading, stay=20.0), saved=found)
    assert pause(lasting, PAGE) < pause(fleeting, PAGE)
