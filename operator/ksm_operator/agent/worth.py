"""What scanning is worth, as a multiple of what it costs. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ksm_operator.agent.reading import Reading

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

SCANS_UNTIL_MERGED: Final = 2.0
"""Times of a scan that memory which becomes alike waits on the mean: half of one for its first
look, one for its second, and more where smart scan passes it over."""


def value(since: Reading, now: Reading, page_size: int, *, life: float = LONGEST_LIFE) -> float:
    """Return what ksmd's work between two readings was worth.

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
    return worth / _price(now, now.cpu - since.cpu)


def haste(size: float, sooner: float, cost: float, now: Reading) -> float:
    """Return what it is worth to have memory merged sooner.

    Args:
        size: bytes that ksmd has not seen, all of which may be alike.
        sooner: seconds that they are merged earlier.
        cost: CPU seconds that this takes.
        now: how scarce memory is, and how long newcomers stay.
    """
    return size * min(sooner, now.stay) / _price(now, cost)


def best_period(rate: float, cost: float, now: Reading) -> float:
    """Return the seconds that a scan should take, of scans that go on all the time.

    The longer they take, the longer memory that could be given back is held, and the less CPU time
    they cost; both together are least at the root of one over the other.

    Args:
        rate: bytes that become alike in a second, and stay so.
        cost: CPU seconds of a scan.
        now: how scarce memory is.
    """
    return math.sqrt(_price(now, cost) / (SCANS_UNTIL_MERGED * rate)) if rate else math.inf


def price(available_percent: float) -> float:
    """Return byte-seconds that a CPU second is worth, with so much of the memory available."""
    return PRICE * max(5.0, min(DEAR_PERCENT, available_percent)) / DEAR_PERCENT


def _price(now: Reading, cpu: float) -> float:
    return max(cpu, 1e-6) * price(now.available_percent)
