"""How long what is new waits for the next burst: by what that one promises. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from ksm_operator.agent.worth import LONGEST_LIFE, haste

if TYPE_CHECKING:
    from ksm_operator.agent.pace import Pace
    from ksm_operator.agent.reading import Reading

LOOKS: Final = 2.2
"""Scans, by their CPU time, in which what was new at the beginning is passed twice."""
FAIR_SHARE: Final = 1 / 6
MOST_SHARE: Final = 1 / 3
LEAST_SHARE: Final = 1 / 10
"""Of the time that may be spent in bursts for what comes without haste: if the next one is just
worth its CPU; at most, and at least."""
FIRST_GUESS: Final = 1 / 4
"""Of newcomers' memory that merges, until a burst was for some; and at least after a burst in which
all was new: they may be like those that had nobody to merge with."""
LONGEST_PAUSE: Final = 360.0
"""Seconds between bursts while newcomers wait."""
LEAST_PAUSE: Final = 2
"""Times as long as the last burst took, whatever `LONGEST_PAUSE` says: where a scan takes an hour,
one after the other would be all that ksmd does."""
OLD_SHARE: Final = 1 / 8
"""Of all memory in a burst: with less that was known before, nearly all of it was new."""


def pause(pace: Pace, page_size: int, *, came: bool) -> float:
    """Return for how many seconds after a burst what is new waits for the next one.

    Args:
        pace: since the burst.
        page_size: bytes of a page.
        came: whether containers came, and not only memory has changed.
    """
    took = pace.done.at - pace.began.at
    if not came:  # how much has to change is what limits such bursts
        return LEAST_PAUSE * took
    # Twice as often, each burst would find half as much; one that loses is due to see whether it
    # still does.
    worth = promise(pace, page_size)
    share = FAIR_SHARE * (math.sqrt(worth) if worth >= 1 else worth)
    share = min(MOST_SHARE, max(LEAST_SHARE, share))
    return max(LEAST_PAUSE * took, min(LONGEST_PAUSE, took * (1 / share - 1)))


def promise(pace: Pace, page_size: int) -> float:
    """Return what a burst for those that wait now is likely to be worth, as a multiple of its cost.

    As much of their memory merges as did of those that the last burst was for, and stays merged for
    as long as they are likely to stay.
    """
    size = likeness(pace, page_size) * pace.last.waiting
    return haste(size, LONGEST_LIFE, LOOKS * pace.quick, pace.last)


def likeness(pace: Pace, page_size: int) -> float:
    """Return which share of newcomers' memory merged and lasted, in the last burst for such."""
    done = pace.done
    if not done.served:
        return pace.likeness
    broken = page_size * (done.breaks - pace.began.breaks)
    kept = max(0, done.merged - pace.began.merged - broken)
    share = kept / (kept + done.served)  # what merged is not charged any more
    return max(share, FIRST_GUESS) if was_new(pace, done) else share


def was_new(pace: Pace, now: Reading) -> bool:
    """Tell whether nearly all that the burst went over had not been looked at before."""
    return pace.began.known <= OLD_SHARE * now.known
