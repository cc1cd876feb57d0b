"""What a governor may have measured, and the pace that follows from it."""

from dataclasses import replace

from ksm_operator.agent.pace import (
    GROWTH_SHARE,
    JUDGED_SECONDS,
    MOST_FIRST_PERIOD,
    Pace,
    begin,
    follow,
)
from ksm_operator.agent.patience import pause
from ksm_operator.agent.reading import Reading, merged

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
    waiting=GIB // 4,
    served=GIB // 4,
)
GROWTH = int(GROWTH_SHARE * START.known)
"""Bytes that are growth worth looking at."""


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


def resume(pace: Pace, *, came: bool = True) -> float:
    """When the next burst may begin, for newcomers or for memory that has changed."""
    return pace.done.at + pause(pace, PAGE, came=came)


def at_rest(reading: Reading = START, *, cpu: float = 1.0) -> tuple[Pace, Reading]:
    """The pace some time after a burst that paid, whose last scan found nothing."""
    pace = begin(reading)
    reading = scanned(reading, saved=GIB)
    pace = follow(pace, reading, PAGE)
    while not pace.period:
        reading = scanned(reading, cpu=cpu)
        pace = follow(pace, reading, PAGE)
    reading = replace(reading, at=resume(pace) + JUDGED_SECONDS)
    return follow(pace, reading, PAGE), reading


def quiet() -> tuple[Pace, Reading]:
    """The pace on a small node where little happens: scans are cheap and rare."""
    pace, reading = at_rest(cpu=0.001)
    return replace(pace, period=MOST_FIRST_PERIOD), reading
