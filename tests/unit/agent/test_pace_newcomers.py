"""How long those who come soon after a burst wait for the next one."""

from dataclasses import replace

import pytest

from ksm_operator.agent.pace import (
    BURST_SCANS,
    JUDGED_SECONDS,
    LONGEST_PERIOD,
    MOST_FIRST_PERIOD,
    MOST_SCANS,
    THOROUGH_SECONDS,
    Pace,
    begin,
    follow,
)
from ksm_operator.agent.patience import (
    FAIR_SHARE,
    FIRST_GUESS,
    LEAST_PAUSE,
    LEAST_SHARE,
    LONGEST_PAUSE,
    LOOKS,
    MOST_SHARE,
    likeness,
    pause,
    promise,
)
from ksm_operator.agent.reading import Reading
from ksm_operator.agent.worth import LONGEST_LIFE, PRICE
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
    return took / (took + pause(pace, PAGE, came=True))


def test_newcomers_that_are_not_worth_it_are_looked_at_more_rarely() -> None:
    """Each burst costs as much as any other, for next to nothing."""
    pace, reading = at_rest()
    nothing, _ = came_and_waited(pace, reading)
    assert share(nothing) == pytest.approx(LEAST_SHARE)
    much, _ = came_and_waited(pace, reading, saved=GIB // 8)
    assert share(much) == pytest.approx(MOST_SHARE)


@pytest.mark.parametrize(("worth", "times"), [(4 / 5, 4 / 5), (1, 1), (2, 2**0.5)])
def test_how_long_the_next_burst_waits_follows_what_it_promises(worth: float, times: float) -> None:
    """Below its price faster than above: it is a loss then, and due to see whether it still is."""
    pace, reading = at_rest()
    stay, many = 20.0, 1000 * GIB  # of which next to nothing merges
    waited = replace(reading, stay=stay, waiting=many, served=many)
    pace, _ = came_and_waited(pace, waited, saved=worth * LOOKS * PRICE / stay / BURST_SCANS)
    assert share(pace) == pytest.approx(times * FAIR_SHARE, rel=1e-3)


def test_what_a_burst_promises_follows_how_much_waits() -> None:
    """A small job is no reason to go over a whole node; many small ones are."""
    pace, reading = at_rest()
    pace, reading = came_and_waited(pace, replace(reading, stay=20.0), saved=GIB // 12)
    half = promise(pace, PAGE)
    assert half == pytest.approx(GIB / 8 * 20 / (LOOKS * PRICE))
    pace = follow(pace, reading := replace(later(reading), waiting=reading.waiting // 8), PAGE)
    assert promise(pace, PAGE) == pytest.approx(half / 8)
    assert share(pace) == pytest.approx(LEAST_SHARE)


def test_what_a_burst_was_worth_shows_a_while_later() -> None:
    """What it merged may be written to at once, like the caches of programs under load."""
    pace, reading = at_rest()
    pace, reading = came_and_waited(pace, reading, saved=GIB // 8)
    undone = later(reading, breaks=GIB // PAGE)
    assert share(follow(pace, undone, PAGE)) == pytest.approx(LEAST_SHARE)
    late = replace(undone, at=reading.at + JUDGED_SECONDS + 1)
    assert share(follow(pace, late, PAGE)) == pytest.approx(MOST_SHARE)


@pytest.mark.parametrize(("known", "merges"), [(0, FIRST_GUESS), (GIB // 4, 0)])
def test_the_first_of_its_kind_says_nothing_of_the_second(known: int, merges: float) -> None:
    """It had nobody to merge with; beside others it would have had."""
    pace, reading = begin(replace(START, known=known)), replace(START, known=GIB // 4)
    while not pace.period:
        pace = follow(pace, reading := scanned(reading), PAGE)
    price = LOOKS * pace.cost * PRICE
    assert promise(pace, PAGE) == pytest.approx(merges * reading.waiting * LONGEST_LIFE / price)


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
    assert pause(pace, PAGE, came=True) == LONGEST_PAUSE
    pace, reading = begin(START), START
    while not pace.period:
        reading = scanned(reading, seconds=600, cpu=100.0)
        pace = follow(pace, reading, PAGE)
    assert pause(pace, PAGE, came=True) == LEAST_PAUSE * (reading.at - START.at)


def test_what_ends_soon_is_worth_little() -> None:
    """However much of it is merged: its program takes it along."""
    pace, reading = at_rest()
    found = GIB // 200
    lasting, _ = came_and_waited(pace, reading, saved=found)
    fleeting, _ = came_and_waited(pace, replace(reading, stay=20.0), saved=found)
    assert pause(lasting, PAGE, came=True) < pause(fleeting, PAGE, came=True)


def test_memory_that_changes_waits_for_no_newcomer() -> None:
    """A garbage collection soon after a burst is seen to, though nobody came who could promise."""
    pace, reading = at_rest()
    pace, reading = came_and_waited(pace, reading)
    pace = follow(pace, reading := replace(later(reading), waiting=0), PAGE)
    took = pace.done.at - pace.began.at
    assert pause(pace, PAGE, came=False) == LEAST_PAUSE * took
    assert share(pace) == pytest.approx(LEAST_SHARE)
    soon = replace(reading, at=pace.done.at + LEAST_PAUSE * took)
    assert not follow(pace, later(soon, **grown(GIB)), PAGE).period


def test_a_burst_that_was_for_nobody_says_nothing_of_newcomers() -> None:
    """An edited policy, a garbage collection, or one whose containers have all ended."""
    pace, reading = came_and_waited(*at_rest(), saved=GIB // 12)
    known = likeness(pace, PAGE)
    assert known == pytest.approx(1 / 2)
    reading = replace(reading, at=resume(pace), served=0)
    pace = follow(pace, reading := later(reading, **grown(GIB)), PAGE)
    while not pace.period:
        pace = follow(pace, reading := scanned(reading, saved=GIB), PAGE)
    assert pace.grew
    assert likeness(pace, PAGE) == known


def test_a_thorough_scan_makes_no_burst_seem_dear() -> None:
    """Newcomers need two looks; that old pages are looked at too is for these."""
    pace, reading = at_rest()
    pace = follow(pace, reading := later(reading, news=1), PAGE)
    while not pace.period:
        cpu = 5.0 if pace.thorough else 1.0
        pace = follow(pace, reading := scanned(reading, cpu=cpu, saved=GIB // 8), PAGE)
    assert pace.cost == pytest.approx(5.0)
    size = likeness(pace, PAGE) * reading.waiting
    assert size
    assert promise(pace, PAGE) == pytest.approx(size * LONGEST_LIFE / (LOOKS * 1.0 * PRICE))


def test_who_came_while_counters_were_waited_for_was_seen_to() -> None:
    """A node's first container comes while none merges, and ksmd makes haste for the counters."""
    pace, reading = begin(START), START
    for news in (0, 0, 1, 0, 0):
        reading = replace(scanned(reading, news=news), hurry=True)
        pace = follow(pace, reading, PAGE)
        assert not pace.period
    assert pace.news == reading.news
