"""How often `Auto` has all memory scanned: at once while new, then as often as that pays. Pure.

A page merges at the second look at the earliest, because its checksum has to stay as it was. So
whenever processes were enrolled or memory has grown, a burst goes over all memory as fast as the
CPU limit lets it, until every page had the looks that it needs. Then scans are spread out: a
scan that was not worth its CPU doubles the time that the next one takes, one that was worth it
twice over halves it. What comes new soon after a burst is scanned for at a part of its speed, which
follows what such scans are worth. So the last CPU second spent is about worth its price.

What a scan is worth is what it merged, times how long that is likely to stay merged: memory that
is written again at once (a garbage collector's), and that of programs which end, is not worth
merging however much of it there is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

BURST_SCANS: Final = 3
"""Ends of scans until new memory was seen to: one was under way when the burst began, and it takes
two that see every page."""
MOST_SCANS: Final = 6
"""By what comes meanwhile a burst is drawn out to so many scans at most, so that a stream of
newcomers does not put the thorough one off for ever."""
MOST_SHARE: Final = 1 / 3
LEAST_SHARE: Final = 1 / 24
"""Of the time that may be spent in bursts. What comes before the next one may begin is scanned for
at this part of their speed: each scan goes over all memory, however little is new, so where
something new comes all the time the more share one the better. By what the last ones were worth
it is made smaller and larger."""
MOST_STEP: Final = 3.0
"""By so much it is changed at once."""
QUICK_SCAN: Final = 5.0
"""Seconds. So short a scan may have ended and begun anew between two looks: one more is waited
for, to be sure of a whole one."""
SHORTEST_PERIOD: Final = 2.0
LONGEST_PERIOD: Final = 960.0
"""Seconds that a scan may take outside of bursts."""
FIRST_SHARE: Final = 0.02
MOST_FIRST_PERIOD: Final = 60.0
"""The first scan after a burst that paid takes so long that it costs this share of a CPU, but no
longer: a program that was started just now fills its memory in the next minute."""
OLD_SHARE: Final = 1 / 8
"""Of all memory in a burst: with less that was known before, there is hardly a page to meet that
is passed over."""
PRICE: Final = 2 << 30
"""Bytes that have to be kept for a second to be worth a CPU second. Nodes are sold with about 4 GiB
of memory for each CPU; where memory is what runs out, half of the CPUs' time is left over."""
DEAR_PERCENT: Final = 25.0
"""Below this share of memory available it counts for more, at most five times as much."""
LONGEST_LIFE: Final = 600.0
"""Seconds that a merged page is taken to stay merged at most."""
LIFE_SECONDS: Final = 30.0
"""In less time what is written to says little of how long merged memory stays so: programs that
start, and garbage collectors, write much at once."""
LEAST_GROWTH: Final = 8 << 20
GROWTH_SHARE: Final = 1 / 64
"""Bytes, and share of what a scan goes over, by which anonymous memory has to grow to be looked
at: a burst costs as much as there is to go over, and can give back what is new."""
MOST_GROWTH: Final = 8
"""How many times as much it takes at most after growth in which nothing was found."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was measured up to a moment.

    Attributes:
        at: seconds on a clock that only moves forward.
        cpu: CPU seconds of ksmd.
        full_scans: scans of all memory that have ended.
        breaks: merged pages that were written to since (cow_ksm of /proc/vmstat, Linux 5.18; 0
            before).
        news: containers that were enrolled, and other reasons to scan soon.
        saved: bytes that merging gives back now.
        merged: bytes that were merged since the first reading, whatever became of them.
        known: bytes of memory that the last scan went over.
        anonymous: bytes of anonymous memory on the node, as much as it were if nothing were merged:
            what merges or is written to does not change it.
        charged: bytes charged to the containers that merge, in the same way. It counts page cache,
            as the other counts programs that do not merge: what is new has to show in both.
        available_percent: MemAvailable in percent of MemTotal.
        stay: seconds that a container which comes new is likely to stay.
        hurry: whether somebody waits for ksmd's counters to become true, which takes a scan.
    """

    at: float
    cpu: float
    full_scans: int
    breaks: int
    news: int
    saved: int
    known: int
    anonymous: int
    charged: int
    available_percent: float
    merged: int = 0
    stay: float = LONGEST_LIFE
    hurry: bool = False


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast to scan now.

    Attributes:
        period: seconds that a scan of all memory may take; 0 in a burst.
        thorough: whether pages that did not merge before are looked at too (`smart_scan` 0): a
            page that is passed over cannot meet its like, but those take the most CPU.
        ends: the number of ended scans at which the next step of a burst is due.
        share: of the time that may be spent in bursts.
        resume: when the next burst may begin, on the clock of `Reading.at`.
        waiting: what was measured when something new came before that, which is scanned for at a
            part of a burst's speed; None while nothing waits.
        grew: whether it was growth, and no new process, that the burst began with.
        growth: by how many times the least growth memory has to grow to be looked at.
        anonymous: anonymous memory from which growth counts.
        charged: the same of what the containers are charged for.
        news: of it, what was seen to.
        began: what was measured when the burst began.
        scan: what was measured when the present scan began.
    """

    period: float
    thorough: bool
    ends: int
    share: float
    resume: float
    waiting: Reading | None
    grew: bool
    growth: float
    anonymous: int
    charged: int
    news: int
    began: Reading
    scan: Reading


def burst(
    now: Reading, *, share: float = MOST_SHARE, growth: float = 1.0, grew: bool = False
) -> Pace:
    """Return the pace for memory that ksmd has not looked at."""
    return Pace(
        period=0.0,
        thorough=False,
        ends=now.full_scans + BURST_SCANS - 1,
        share=share,
        resume=now.at,
        waiting=None,
        grew=grew,
        growth=growth,
        anonymous=now.anonymous,
        charged=now.charged,
        news=now.news,
        began=now,
        scan=now,
    )


def follow(pace: Pace, now: Reading, page_size: int) -> Pace:
    """Return the pace from now on."""
    pace = replace(
        pace,
        anonymous=min(pace.anonymous, now.anonymous),
        charged=min(pace.charged, now.charged),
    )
    came, grew = now.news > pace.news, _grew(pace, now, page_size)
    fresh = came or grew
    if not pace.period:
        return _in_burst(pace, now, page_size, fresh=fresh)
    if pace.waiting is not None and not now.hurry:
        return _while_waiting(pace, pace.waiting, now, page_size)
    if now.hurry or (fresh and now.at >= pace.resume):
        grew = not (came or now.hurry)
        return burst(now, share=pace.share, growth=pace.growth, grew=grew)
    if fresh:
        return replace(pace, waiting=now, thorough=False)
    return pace if now.full_scans == pace.scan.full_scans else _paid(pace, now, page_size)


def _paid(pace: Pace, now: Reading, page_size: int) -> Pace:
    """Scan more often or more rarely, by what the last scan was worth."""
    worth = value(pace.scan, now, page_size)
    period = pace.period
    if worth < 1:
        period = min(LONGEST_PERIOD, 2 * period)
    elif worth >= 2:  # noqa: PLR2004 - half as much in half the time would still pay
        period = max(SHORTEST_PERIOD, period / 2)
    return replace(pace, period=period, scan=now)


def _while_waiting(pace: Pace, since: Reading, now: Reading, page_size: int) -> Pace:
    """Go on until what was new then has had its looks; what came later waits anew."""
    if now.full_scans < since.full_scans + BURST_SCANS:
        return pace
    return replace(
        pace,
        waiting=None,
        share=_share(pace, value(since, now, page_size, life=now.stay)),
        resume=now.at + (now.at - since.at),
        thorough=True,
        scan=now,
        news=since.news,
        anonymous=min(since.anonymous, now.anonymous),
        charged=min(since.charged, now.charged),
    )


def _in_burst(pace: Pace, now: Reading, page_size: int, *, fresh: bool) -> Pace:
    # What is new shares the scans that are still to come, and needs no burst of its own.
    ends = now.full_scans + BURST_SCANS - 1
    if fresh and ends < pace.began.full_scans + MOST_SCANS:
        pace = replace(
            pace,
            thorough=False,
            ends=ends,
            news=now.news,
            anonymous=now.anonymous,
            charged=now.charged,
        )
    if now.full_scans == pace.scan.full_scans:
        return pace
    scan = pace.scan
    pace = replace(pace, scan=now)
    if now.full_scans < pace.ends:
        worth = value(scan, now, page_size, life=now.stay)
        drawn_out = now.full_scans >= pace.began.full_scans + BURST_SCANS
        if pace.thorough or not drawn_out or worth >= 1:
            return pace
        # The others are not worth the haste: they have their looks at a part of the speed.
        return replace(
            pace, period=MOST_FIRST_PERIOD, waiting=now, share=_share(pace, worth), thorough=False
        )
    if not pace.thorough and pace.began.known > OLD_SHARE * now.known:
        sure = 2 if now.at - scan.at < QUICK_SCAN else 1
        return replace(pace, thorough=True, ends=now.full_scans + sure)
    if now.hurry:
        return replace(pace, ends=now.full_scans + 1)
    worth = value(pace.began, now, page_size, life=now.stay)
    paid = worth >= 1
    growth = pace.growth
    if pace.grew:
        growth = 1.0 if paid else min(MOST_GROWTH, 2 * growth)
    scans = now.full_scans - scan.full_scans
    first = (now.cpu - scan.cpu) / scans / FIRST_SHARE
    share = _share(pace, worth)
    return replace(
        pace,
        thorough=True,
        share=share,
        period=max(SHORTEST_PERIOD, min(MOST_FIRST_PERIOD, first if paid else math.inf)),
        growth=growth,
        resume=now.at + (now.at - pace.began.at) * (1 / share - 1),
    )


def _share(pace: Pace, worth: float) -> float:
    """Return the share with which the next newcomers are about worth their scans.

    Half as many scans find about as much, as long as those live on who wait for them.
    """
    factor = min(MOST_STEP, max(1 / MOST_STEP, worth))
    return min(MOST_SHARE, max(LEAST_SHARE, pace.share * factor))


def _grew(pace: Pace, now: Reading, page_size: int) -> bool:
    least = max(LEAST_GROWTH, GROWTH_SHARE * now.known)
    # A page that was written to is charged at once, and counts as merged until ksmd comes by.
    twice = page_size * (now.breaks - pace.scan.breaks)
    growth = min(now.anonymous - pace.anonymous, now.charged - pace.charged) - twice
    return growth >= pace.growth * least


def merged(last: Reading | None, saved: int, breaks: int, page_size: int) -> int:
    """Return what `Reading.merged` of the next reading is.

    The kernel counts what is merged now. What was written to meanwhile is known too; what ended is
    not, but ksmd comes upon that all at once, so that over a second or so it shows as a loss.
    """
    if last is None:
        return 0
    return last.merged + max(0, saved - last.saved + page_size * (breaks - last.breaks))


def value(since: Reading, now: Reading, page_size: int, *, life: float = LONGEST_LIFE) -> float:
    """Return what ksmd's work between two readings was worth, as a multiple of what it cost.

    The memory that it merged anew, times how long that stays merged at the rate at which merged
    memory was written to meanwhile. What was written to is taken to be of what is new: there is
    memory that is written to all the time, and memory that is not. It would have been merged again
    as well had ksmd taken twice the time, and half of that time later on the mean.

    Args:
        since: what was measured before the work.
        now: and after it.
        page_size: bytes of a page.
        life: seconds that the programs whose memory it is are likely to live.
    """
    seconds, fresh = now.at - since.at, now.merged - since.merged
    broken = page_size * (now.breaks - since.breaks)
    kept = max(0, fresh - broken)
    life = min(life, LONGEST_LIFE)
    if broken:
        life = min(life, max(now.saved, 1) * max(seconds, LIFE_SECONDS) / broken)
    worth = kept * life + (fresh - kept) * min(life, seconds / 2)
    scarcity = max(5.0, min(DEAR_PERCENT, now.available_percent)) / DEAR_PERCENT
    cost = max(now.cpu - since.cpu, 1e-6) * PRICE * scarcity
    return worth / cost
