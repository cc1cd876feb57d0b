"""How often `Auto` has all memory scanned: at once while new, then as often as that pays. Pure.

A page merges at the second look at the earliest, because its checksum has to stay as it was. So
whenever processes were enrolled, memory has grown, or much of what was merged has been written to,
a burst goes over all memory as fast as the CPU limit lets it, until every page had the looks that
it needs. Then scans are spread out: how long the next one takes follows what the last few have
found, so that the last CPU second spent is about worth its price.

Each scan goes over all memory, however little is new. What comes soon after a burst waits for the
next one, unless it is so much that haste is worth it: two scans in quick succession merge what is
there sooner than the same two evenly spread out, because the second look is what counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from ksm_operator.agent.patience import FIRST_GUESS, LOOKS, likeness, pause, was_new
from ksm_operator.agent.worth import best_period, haste, value
from ksm_operator.agent.writing import Writing

if TYPE_CHECKING:
    from ksm_operator.agent.reading import Reading

BURST_SCANS: Final = 3
"""Ends of scans until new memory was seen to: one was under way when the burst began, and it takes
two that see every page. The last of them may be a thorough one."""
MOST_SCANS: Final = 6
"""By what grows meanwhile a burst is drawn out to so many scans at most, so that it does not put
the thorough one off for ever."""
MOST_STEP: Final = 3.0
"""By so much the time that a scan takes is changed at once."""
RATE_SECONDS: Final = 30.0
RATE_SCANS: Final = 4
"""What is found at rest, and what a scan costs, is averaged over some such time, and some such
number of scans: one finds much and the next one nothing, by what smart scan passes over."""
QUICK_SCAN: Final = 5.0
"""Seconds. So short a scan may have ended and begun anew between two looks: one more is waited
for, to be sure of a whole one."""
SHORTEST_PERIOD: Final = 2.0
LONGEST_PERIOD: Final = 960.0
"""Seconds that a scan may take outside of bursts."""
FIRST_SHARE: Final = 0.02
MOST_FIRST_PERIOD: Final = 60.0
"""The first scan after a burst that paid, or that a garbage collector disturbed, takes so long that
it costs this share of a CPU, but no longer than that: a program that was started just now fills its
memory in the next minute. After any other burst it takes as long as that."""
THOROUGH_SECONDS: Final = 300.0
"""Between two scans that pass over nothing, while scans that do pass over old pages take less."""
SMALL: Final = 64 << 20
"""Bytes that a scan goes over. With less each burst ends with a thorough one: it has a dozen scans
in a second, after which smart scan passes over nearly all, and a thorough one takes next to none.
"""
LEAST_GROWTH: Final = 2 << 20
GROWTH_SHARE: Final = 1 / 64
"""Bytes, and share of what a scan goes over, by which anonymous memory has to grow, or be written
to, to be looked at: a burst costs as much as there is to go over, and can give back what is new."""
MOVED_SHARE: Final = 1 / 2
"""Of what is merged now: when more than that was written to, a garbage collector has moved most of
it to where nothing merged before, which a smart scan passes over."""
MOVED_SECONDS: Final = 60.0
"""From a thorough scan to such a burst: what the scan merges of garbage is written to soon, which
would call for the burst."""
MOST_GROWTH: Final = 8
"""How many times as much it takes at most after growth in which nothing was found."""
JUDGED_SECONDS: Final = 10.0
"""After a burst, until it shows what of its work was undone at once."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast to scan now.

    Attributes:
        period: seconds that a scan of all memory may take; 0 in a burst.
        thorough: whether pages that did not merge before are looked at too (`smart_scan` 0): a
            page that is passed over cannot meet its like, but those take the most CPU.
        thorough_due: when the next thorough scan is due, on the clock of `Reading.at`.
        tail: whether the burst has yet to end with a scan that passes over nothing.
        ends: the number of ended scans at which the next step of a burst is due.
        waiting: whether something new waits for the next burst.
        grew: whether it was memory that changed, and no new process, that the burst began with.
        growth: by how many times the least growth memory had to grow for that.
        likeness: share of newcomers' memory that merged and lasted in the bursts before the last.
        cost: CPU seconds of a scan, lately.
        quick: the same of the last scan in a burst that passed over old pages.
        rate: bytes that scans at rest merged in a second, lately, of each scan less what was
            written to during it.
        anonymous: anonymous memory from which growth counts.
        charged: the same of what the containers are charged for.
        news: `Reading.news` up to which newcomers were seen to.
        last: the last reading.
        writing: how fast merged memory is written to, lately since the last burst began.
        began: what was measured when the burst began.
        done: and when it was over, with the pages that were written to a while later.
        scan: what was measured when the present scan began, or when the burst ended amid it.
        first: whether no whole scan has ended since the burst.
        passing: breaks until the present scan began: ksmd comes by all of those in it.
        seen: breaks until the scan before it began: ksmd has come by all of those.
    """

    period: float
    thorough: bool
    thorough_due: float
    tail: bool
    ends: int
    waiting: bool
    grew: bool
    growth: float
    likeness: float
    cost: float
    quick: float
    rate: float
    anonymous: int
    charged: int
    news: int
    last: Reading
    writing: Writing
    began: Reading
    done: Reading
    scan: Reading
    first: bool
    passing: int
    seen: int


def begin(now: Reading) -> Pace:
    """Return the pace for memory that ksmd has not looked at."""
    return Pace(
        period=0.0,
        thorough=False,
        thorough_due=now.at + THOROUGH_SECONDS,
        tail=True,
        ends=now.full_scans + BURST_SCANS - 1,
        waiting=False,
        grew=False,
        growth=1.0,
        likeness=FIRST_GUESS,
        cost=0.0,
        quick=0.0,
        rate=0.0,
        anonymous=now.anonymous,
        charged=now.charged,
        news=now.news,
        last=now,
        writing=Writing(),
        began=now,
        done=now,
        scan=now,
        first=True,
        passing=now.breaks,
        seen=now.breaks,
    )


def follow(pace: Pace, now: Reading, page_size: int) -> Pace:
    """Return the pace from now on."""
    seconds = max(now.at - pace.last.at, 1e-6)
    rate = page_size * (now.breaks - pace.last.breaks) / seconds
    calm = pace.writing.is_calm(rate)
    pace = replace(
        pace,
        anonymous=min(pace.anonymous, now.anonymous),
        charged=min(pace.charged, now.charged),
        last=now,
        writing=pace.writing.after(rate, seconds),
    )
    if not pace.period:
        return _in_burst(pace, now, page_size, calm=calm)
    if now.at <= pace.done.at + JUDGED_SECONDS:
        pace = replace(pace, done=replace(pace.done, breaks=now.breaks))
    came = now.news > pace.news
    fresh = came or _changed(pace, now, page_size, calm=calm)
    if now.hurry or (fresh and _is_time(pace, now, page_size, came=came)):
        return _burst(pace, now, page_size, came=came)
    if fresh:
        # Scans before that burst would be of little use to what is new.
        return replace(pace, waiting=True, thorough=False, period=LONGEST_PERIOD)
    if pace.waiting:  # what was new has gone
        return replace(pace, waiting=False, period=MOST_FIRST_PERIOD)
    return pace if now.full_scans == pace.scan.full_scans else _paid(pace, now, page_size)


def _burst(pace: Pace, now: Reading, page_size: int, *, came: bool) -> Pace:
    grew = not (came or now.hurry)
    # Where burst follows burst, what is new has met what is old in one of them.
    spared = grew or (pace.waiting and now.at < pace.thorough_due)
    tail = now.known < SMALL or not spared
    return replace(
        begin(now),
        thorough=grew and _was_collected(pace, now),
        thorough_due=pace.thorough_due,
        tail=tail,
        ends=now.full_scans + BURST_SCANS - (1 if tail else 0),
        grew=grew,
        growth=_growth_factor(pace, now, page_size),
        likeness=likeness(pace, page_size),
        cost=pace.cost,
        quick=pace.quick,
        rate=pace.rate,
        writing=pace.writing.seen_to(),
    )


def _was_collected(pace: Pace, now: Reading) -> bool:
    """Tell whether most of what was merged lies elsewhere now, and is worth a thorough burst."""
    least = max(_least_growth(now), MOVED_SHARE * now.saved)
    thorough_at = pace.thorough_due - THOROUGH_SECONDS
    return pace.writing.stood_out() > least and now.at >= thorough_at + MOVED_SECONDS


def _paid(pace: Pace, now: Reading, page_size: int) -> Pace:
    """Scan more often or more rarely, by what scans have found lately."""
    scan, seconds = pace.scan, max(now.at - pace.scan.at, 1e-6)
    if scan.at == pace.done.at and seconds < pace.period / 2:
        # Most of this one belonged to the burst: it has gone over next to nothing since then.
        return _next_scan(pace, now)
    fresh = now.merged - scan.merged - page_size * (now.breaks - scan.breaks)
    weight = seconds / (seconds + max(RATE_SECONDS, RATE_SCANS * seconds))
    rate = pace.rate + weight * (max(0, fresh) / seconds - pace.rate)
    cost = _cost_at_rest(pace, now, weight)
    best = best_period(rate, cost, now)
    period = min(MOST_STEP * pace.period, max(pace.period / MOST_STEP, best))
    thorough = now.at >= pace.thorough_due
    return replace(
        _next_scan(pace, now),
        period=min(LONGEST_PERIOD, max(SHORTEST_PERIOD, period)),
        thorough=thorough,
        thorough_due=now.at + THOROUGH_SECONDS if thorough else pace.thorough_due,
        cost=cost,
        rate=rate,
        first=False,
    )


def _cost_at_rest(pace: Pace, now: Reading, weight: float) -> float:
    """Return the CPU seconds that the next scan is likely to take, after one that weighs so much.

    Scans of a burst and thorough ones take several times as much, so they are left out.
    """
    if pace.thorough:
        return pace.cost
    cost = _cost(pace.scan, now)
    return cost if pace.first else pace.cost + weight * (cost - pace.cost)


def _in_burst(pace: Pace, now: Reading, page_size: int, *, calm: bool) -> Pace:
    if now.full_scans == pace.scan.full_scans:
        return _after(pace, now, page_size, calm=calm) if _is_seen(pace, now) else pace
    scan, cost = pace.scan, _cost(pace.scan, now)
    quick = pace.quick if pace.thorough else cost
    pace = replace(_next_scan(pace, now), cost=cost, quick=quick)
    if now.full_scans < pace.ends:
        return pace
    # What has grown during a scan has had one look at most.
    pace = replace(pace, anonymous=scan.anonymous, charged=scan.charged)
    came = _growth(pace, now, page_size)
    if not pace.thorough:
        sooner = pause(replace(pace, done=now), page_size, came=True)
        drawn_out = now.full_scans < pace.began.full_scans + MOST_SCANS
        if drawn_out and haste(came, sooner, cost, now) >= 1:
            return replace(pace, ends=now.full_scans + 1, news=scan.news)
        old = not was_new(pace, now)
        # In new memory a third look is for what came late, if there is anything to be found.
        if pace.tail and (old or value(scan, now, page_size, life=now.stay) >= 1):
            sure = 2 if old and now.at - scan.at < QUICK_SCAN else 1
            ends = now.full_scans + sure
            return replace(pace, tail=False, thorough=old, ends=ends, news=scan.news)
    if now.hurry:
        return replace(pace, ends=now.full_scans + 1, news=scan.news)
    return _after(pace, now, page_size, calm=calm)


def _is_seen(pace: Pace, now: Reading) -> bool:
    """Tell amid a scan whether what was new has had its looks.

    The kernel puts a new process right behind the place that ksmd has come to, so that has to be
    passed twice (`__ksm_enter` of mm/ksm.c); how far ksmd is in a scan, only its CPU time tells.
    """
    if pace.tail or pace.thorough or now.hurry or was_new(pace, now):
        return False
    whole = now.full_scans >= pace.began.full_scans + BURST_SCANS - 1
    return whole and now.cpu - pace.began.cpu >= LOOKS * pace.cost


def _after(pace: Pace, now: Reading, page_size: int, *, calm: bool) -> Pace:
    """Return the pace after a burst."""
    worth = value(pace.began, now, page_size, life=now.stay)
    # Amid a garbage collection it says little that nothing was found.
    soon = worth >= 1 or not calm
    period = pace.cost / FIRST_SHARE if soon else MOST_FIRST_PERIOD
    return replace(
        pace,
        period=max(SHORTEST_PERIOD, min(MOST_FIRST_PERIOD, period)),
        thorough=False,
        thorough_due=now.at + THOROUGH_SECONDS if pace.thorough else pace.thorough_due,
        scan=now,
        done=now,
    )


def _next_scan(pace: Pace, now: Reading) -> Pace:
    """Return the pace at the end of a scan, when the next one begins."""
    return replace(pace, scan=now, passing=now.breaks, seen=pace.passing)


def _cost(since: Reading, now: Reading) -> float:
    """Return the CPU seconds of one of the scans that have ended."""
    return (now.cpu - since.cpu) / max(1, now.full_scans - since.full_scans)


def _growth(pace: Pace, now: Reading, page_size: int) -> int:
    """Return by how many bytes the containers' memory has grown since it was seen to."""
    grown = min(now.anonymous - pace.anonymous, now.charged - pace.charged)
    # A page that was written to is charged at once, and counts as merged until ksmd comes by: in
    # the next scan where that had passed it already.
    return grown - page_size * (now.breaks - pace.seen)


def _least_growth(now: Reading) -> float:
    return max(LEAST_GROWTH, GROWTH_SHARE * now.known)


def _growth_factor(pace: Pace, now: Reading, page_size: int) -> float:
    """Return by how many times the least growth memory has to grow from now on, at rest."""
    if not pace.grew or pace.writing.stood_out() >= MOST_GROWTH * _least_growth(now):
        # A collection has just undone it, whatever it was worth.
        return pace.growth
    worth = value(pace.began, pace.done, page_size, life=pace.done.stay)
    return 1.0 if worth >= 1 else min(MOST_GROWTH, 2 * pace.growth)


def _changed(pace: Pace, now: Reading, page_size: int, *, calm: bool) -> bool:
    """Tell whether memory has changed so much at rest that a burst is worth it."""
    size = max(_growth(pace, now, page_size), pace.writing.stood_out() if calm else 0)
    if size < _growth_factor(pace, now, page_size) * _least_growth(now):
        return False
    # At rest it would take two scans as well.
    return haste(size, 2 * pace.period, BURST_SCANS * pace.cost, now) >= 1


def _is_time(pace: Pace, now: Reading, page_size: int, *, came: bool) -> bool:
    """Tell whether what is new has waited long enough, or is too much to wait."""
    left = pace.done.at + pause(pace, page_size, came=came) - now.at
    growth = _growth(pace, now, page_size)
    return left <= 0 or haste(growth, left, BURST_SCANS * pace.cost, now) >= 1
