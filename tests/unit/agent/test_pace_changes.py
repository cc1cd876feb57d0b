"""When memory has changed so much that it is scanned for."""

from dataclasses import replace

import pytest

from ksm_operator.agent.pace import (
    JUDGED_SECONDS,
    LEAST_GROWTH,
    MOST_FIRST_PERIOD,
    MOVED_SECONDS,
    SMALL,
    Pace,
    follow,
)
from ksm_operator.agent.reading import Reading
from ksm_operator.agent.writing import CALM, LATELY_SECONDS, USUAL_SECONDS
from unit.agent.readings import GIB, GROWTH, PAGE, at_rest, grown, later, quiet, resume, scanned


def test_a_little_growth_is_no_news() -> None:
    """Programs allocate and free all the time."""
    pace, reading = quiet()
    assert follow(pace, later(reading, **grown(GROWTH - 1)), PAGE).period
    assert not follow(pace, later(reading, **grown(GROWTH)), PAGE).period


def test_on_a_small_node_a_little_is_much() -> None:
    """A pod of sixteen megabytes may be all that there is, and grow in two steps."""
    pace, reading = quiet()
    reading = replace(reading, known=8 * LEAST_GROWTH)
    assert follow(pace, later(reading, **grown(LEAST_GROWTH - 1)), PAGE).period
    assert not follow(pace, later(reading, **grown(LEAST_GROWTH)), PAGE).period


@pytest.mark.parametrize(("known", "thorough"), [(SMALL - 1, True), (SMALL, False)])
def test_a_burst_is_thorough_where_that_is_cheap(known: int, *, thorough: bool) -> None:
    """A few short scans are enough for smart scan to pass over the likes of what has grown."""
    pace, reading = quiet()
    reading = replace(reading, known=known)
    pace = follow(pace, reading := later(reading, **grown(GIB)), PAGE)
    passed_over_nothing = False
    while not pace.period:
        pace = follow(pace, reading := scanned(reading, cpu=0.001), PAGE)
        passed_over_nothing |= pace.thorough
    assert passed_over_nothing is thorough


@pytest.mark.parametrize("elsewhere", ["anonymous", "charged"])
def test_growth_of_others_and_of_page_cache_is_no_news(elsewhere: str) -> None:
    """A virtual machine that fills its memory, or a pod that reads files all day."""
    pace, reading = quiet()
    assert follow(pace, later(reading, **{elsewhere: 8 * GROWTH}), PAGE).period


def written(reading: Reading, size: int) -> Reading:
    """A garbage collector wrote to so much of what was merged, and is done with it."""
    return later(reading, **grown(size), breaks=size // PAGE)


def test_what_was_merged_and_written_to_is_merged_again_soon() -> None:
    """A garbage collector moves the same data to other pages."""
    pace, reading = at_rest()
    pace = follow(pace, reading := written(reading, GIB // 2), PAGE)
    assert pace.period, "it is still at work"
    assert not follow(pace, later(reading), PAGE).period


@pytest.mark.parametrize(("share", "thorough"), [(0.4, False), (0.6, True)])
def test_where_most_was_moved_nothing_is_passed_over(share: float, *, thorough: bool) -> None:
    """A collector moves data to where nothing merged before, which smart scan passes over."""
    pace, reading = at_rest()
    pace = follow(pace, reading := later(reading, MOVED_SECONDS), PAGE)
    pace = follow(pace, reading := written(reading, int(share * GIB)), PAGE)
    pace = follow(pace, later(reading), PAGE)
    assert not pace.period
    assert pace.thorough == thorough


def test_a_page_or_two_written_to_is_no_collection() -> None:
    """Where hardly anything is merged, that is more than half of it."""
    pace, reading = at_rest()
    reading = later(replace(reading, saved=0), MOVED_SECONDS)
    pace = follow(pace, later(reading, **grown(GIB), breaks=1), PAGE)
    assert not pace.period
    assert not pace.thorough


def test_what_is_written_to_slowly_disturbs_no_burst() -> None:
    """A long scan of a large node is never without; only a collector at work says nothing."""
    pace, reading = at_rest()
    pace = follow(pace, reading := later(reading, **grown(2 * GIB)), PAGE)
    while not pace.period:
        for _ in range(60):
            slowly = {"breaks": CALM // PAGE // 4, "saved": -CALM // 4}
            pace = follow(pace, reading := later(reading, **slowly), PAGE)
        pace = follow(pace, reading := scanned(reading, seconds=1.0), PAGE)
    assert pace.period == MOST_FIRST_PERIOD


def test_a_moments_rest_in_steady_writing_is_no_collection() -> None:
    """Caches are written to all the time, and what merges of them now will not be for long."""
    pace, reading = usually_written(2 * CALM)
    for _ in range(100):
        pace = follow(pace, reading := written(reading, 4 * CALM), PAGE)
        pace = follow(pace, reading := later(reading), PAGE)
        assert pace.period


def test_a_collection_stands_out_from_steady_writing() -> None:
    """Whether or not that rests for a moment."""
    pace, reading = usually_written(4 * CALM)
    pace = follow(pace, reading := written(reading, 8 * GROWTH), PAGE)
    assert pace.period, "it is still at work"
    assert not follow(pace, written(reading, 4 * CALM), PAGE).period


def test_steady_writing_is_as_usual_after_a_burst_as_before() -> None:
    """A burst forgets what was written to before it, but not how much usually is."""
    pace, reading = usually_written(4 * CALM)
    pace = follow(pace, reading := written(reading, 4 * CALM), PAGE)
    pace = follow(pace, reading := later(reading, news=1), PAGE)
    assert not pace.period
    while not pace.period:
        steadily = {"cpu": 0.001, "breaks": 4 * CALM // PAGE}
        pace = follow(pace, reading := scanned(reading, seconds=1.0, **steadily), PAGE)
    until = resume(pace, came=False) + LATELY_SECONDS
    while reading.at < until:
        pace = follow(pace, reading := written(reading, 4 * CALM), PAGE)
        assert pace.period
    pace = follow(pace, reading := written(reading, 4 * CALM + 4 * GROWTH), PAGE)
    assert not follow(pace, written(reading, 4 * CALM), PAGE).period


def test_steady_writing_beside_growth_is_no_collection() -> None:
    """However little is merged beside it, and so however much of that was written to."""
    pace, reading = usually_written(4 * CALM)
    minute = {"breaks": MOVED_SECONDS * 4 * CALM // PAGE}
    reading = later(replace(reading, saved=8 * CALM), MOVED_SECONDS, **minute)
    pace = follow(pace, reading, PAGE)
    pace = follow(pace, later(written(reading, 0), **grown(GIB)), PAGE)
    assert not pace.period
    assert not pace.thorough


def usually_written(rate: int) -> tuple[Pace, Reading]:
    """At rest, after so many bytes were written to in each second of some minutes."""
    pace, reading = quiet()
    pace = replace(pace, growth=2**20)
    for _ in range(20 * int(USUAL_SECONDS)):
        pace = follow(pace, reading := written(reading, rate), PAGE)
    return replace(pace, growth=1.0), reading


def test_what_was_written_to_all_the_time_is_forgotten() -> None:
    """A cache that is full, or a program that ended, does not hide a collection hours later."""
    pace, reading = usually_written(4 * CALM)
    for _ in range(10 * int(USUAL_SECONDS)):
        pace = follow(pace, reading := later(reading), PAGE)
    pace = follow(pace, reading := written(reading, 4 * GROWTH), PAGE)
    assert not follow(pace, later(reading), PAGE).period


def test_garbage_that_merged_does_not_call_for_more_of_it() -> None:
    """A thorough scan merges garbage too, which is written to at the next small collection."""
    pace, reading = at_rest()
    reading = later(reading, MOVED_SECONDS)
    thorough = 0
    for _ in range(3):
        pace = follow(pace, reading := written(reading, 2 * GIB), PAGE)
        pace = follow(pace, reading := later(reading), PAGE)
        assert not pace.period
        thorough += pace.thorough
        while not pace.period:
            pace = follow(pace, reading := scanned(reading, seconds=1.0), PAGE)
        reading = replace(reading, at=resume(pace, came=False))
    assert thorough == 1


def test_a_collection_is_not_taken_for_what_is_usual() -> None:
    """It is all the writing there was, and must not hide itself, or the next one."""
    pace, reading = at_rest()
    for _ in range(3):
        pace = follow(pace, reading := written(reading, GIB // 4), PAGE)
        assert LATELY_SECONDS * pace.writing.usual < GIB // 16
        while pace.period:
            pace = follow(pace, reading := later(reading), PAGE)
        assert reading.at <= resume(pace, came=False) + 1
        while not pace.period:
            pace = follow(pace, reading := scanned(reading, seconds=1.0), PAGE)
        pace = follow(pace, reading := replace(reading, at=resume(pace, came=False)), PAGE)


def test_a_burst_that_a_collection_undid_says_nothing_of_the_next() -> None:
    """What it merged was moved as well, so growth has to be no larger from then on."""
    pace, reading = quiet()
    pace = follow(pace, reading := later(reading, **grown(GROWTH)), PAGE)
    while not pace.period:
        pace = follow(pace, reading := scanned(reading, seconds=1.0, cpu=0.01), PAGE)
    pace = follow(pace, reading := written(reading, GIB // 4), PAGE)
    while pace.period:
        pace = follow(pace, reading := later(reading), PAGE)
    assert pace.growth == 1


def test_what_was_written_to_while_a_scan_ended_is_not_forgotten() -> None:
    """The scan came too early for most of it, and the next one may take minutes."""
    pace, reading = at_rest()
    reading = scanned(written(reading, GIB // 2), **grown(-GIB // 2))
    pace = follow(pace, reading, PAGE)
    assert pace.period
    assert not follow(pace, later(reading), PAGE).period


def test_a_burst_amid_the_writing_is_followed_by_another() -> None:
    """Collectors of other programs were at work; what they moved had one look at most."""
    pace, reading = at_rest()
    pace = follow(pace, reading := written(reading, GIB // 4), PAGE)
    pace = follow(pace, reading := later(reading), PAGE)
    assert not pace.period
    while not pace.period:
        # ksmd comes by, and counts it no longer as merged.
        gone = {"saved": -GIB // 4, **grown(-GIB // 4)}
        reading = scanned(written(reading, GIB // 4), seconds=0.0, **gone)
        pace = follow(pace, reading, PAGE)
    assert pace.period < MOST_FIRST_PERIOD, "it found nothing because it came too early"
    reading = replace(reading, at=resume(pace, came=False))
    pace = follow(pace, reading, PAGE)
    assert not pace.period


def test_what_is_written_to_all_the_time_is_left_to_the_next_scan() -> None:
    """There is no moment at which it would be worth looking."""
    pace, reading = at_rest()
    for _ in range(20):
        pace = follow(pace, reading := written(reading, CALM + PAGE), PAGE)
        assert pace.period


def test_what_is_written_to_is_no_growth() -> None:
    """It is charged to its program at once, and ksmd counts it as merged until it comes by."""
    pace, reading = quiet()
    more = written(reading, GROWTH - PAGE)
    for _ in range(2):
        pace = follow(pace, more := later(more), PAGE)
        assert pace.period
    assert not follow(pace, later(more, **grown(GROWTH)), PAGE).period


def test_what_is_written_to_while_newcomers_wait_is_no_growth() -> None:
    """Nor is it once they have gone again, until ksmd has come by."""
    pace, reading = quiet()
    reading = replace(reading, at=pace.done.at + 1)
    pace = follow(pace, reading := later(reading, news=1), PAGE)
    assert pace.waiting
    for _ in range(10):
        pace = follow(pace, reading := written(reading, GROWTH // 8), PAGE)
    pace = follow(pace, reading := later(reading, news=-1), PAGE)
    assert not pace.waiting
    reading = replace(reading, at=resume(pace) + 10 * LATELY_SECONDS)
    for _ in range(3):
        pace = follow(pace, reading := later(reading), PAGE)
        assert pace.period
        assert not pace.waiting


def test_what_ksmd_had_passed_when_it_was_written_to_is_no_growth() -> None:
    """It counts as merged until ksmd comes by again, and that is in the next scan."""
    pace, reading = quiet()
    for _ in range(3):
        for _ in range(20):
            pace = follow(pace, reading := written(reading, GROWTH // 12), PAGE)
            assert pace.period
            assert not pace.waiting
        pace = follow(pace, reading := scanned(reading, seconds=1.0, cpu=0.001), PAGE)
        pace = follow(pace, reading := later(reading), PAGE)
        assert pace.period
        assert not pace.waiting
        gone = -20 * (GROWTH // 12)
        reading = later(reading, saved=gone, **grown(gone))  # the next scan passes by it
    many = follow(pace, later(reading, **grown(4 * GROWTH)), PAGE)
    assert not many.period or many.waiting, "more than was written to"


def test_growth_counts_from_the_least_there_was() -> None:
    """A program that ends makes room, and what then takes its place is new."""
    pace, reading = quiet()
    less = later(reading, **grown(-GIB // 2))
    pace = follow(pace, less, PAGE)
    assert pace.period
    assert not follow(pace, later(less, **grown(GROWTH)), PAGE).period


def test_growth_in_which_nothing_was_found_has_to_be_larger_next_time() -> None:
    """Somebody outside of the domain may grow and shrink for ever."""
    pace, reading = quiet()
    reading = later(reading, **grown(GROWTH))
    pace = follow(pace, reading, PAGE)
    while not pace.period:
        reading = scanned(reading, cpu=0.001)
        pace = follow(pace, reading, PAGE)
    reading = replace(reading, at=resume(pace, came=False) + JUDGED_SECONDS)
    pace = follow(pace, reading, PAGE)
    assert follow(pace, later(reading, **grown(1.5 * GROWTH)), PAGE).period
    reading = later(reading, **grown(2 * GROWTH))
    pace = follow(pace, reading, PAGE)
    assert not pace.period
    while not pace.period:
        reading = scanned(reading, cpu=0.001, saved=GIB // 4)
        pace = follow(pace, reading, PAGE)
    reading = replace(reading, at=resume(pace, came=False) + JUDGED_SECONDS)
    pace = replace(pace, period=MOST_FIRST_PERIOD)
    assert not follow(pace, later(reading, **grown(GROWTH)), PAGE).period


def test_a_burst_that_ends_amid_a_scan_has_not_come_by_what_was_written_to_in_it() -> None:
    """What ksmd passed early in that scan, and was written to later, counts as merged still."""
    pace, reading = quiet()
    reading = replace(later(reading, news=1), at=resume(pace))
    pace = replace(pace, waiting=True)
    pace = follow(pace, reading, PAGE)
    for _ in range(2):
        pace = follow(pace, reading := scanned(reading, cpu=0.001), PAGE)
    assert not pace.period
    pace = follow(pace, reading := later(written(reading, GROWTH), cpu=0.01), PAGE)
    assert pace.period, "it ended amid a scan"
    for _ in range(2):
        assert reading.breaks - pace.seen >= GROWTH // PAGE
        pace = follow(pace, reading := scanned(reading, seconds=60.0, cpu=0.001), PAGE)
    assert reading.breaks == pace.seen
