"""How fast merged memory is written to, and what of that stands out from what usually is. Pure.

Caches are written to all the time, more or less. A garbage collector writes to much at once, and
has moved the same data elsewhere when it is done.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

LATELY_SECONDS: Final = 10.0
"""After which little more than a third counts of what was written to: a full garbage collection
takes less."""
USUAL_SECONDS: Final = 15.0
"""Over which is averaged what is written to all the time, which a collection stands out from."""
MOST_MORE: Final = 8 << 20
"""Bytes a second, beyond twice of what was usual: no more than that becomes usual. Caches that were
just merged are written to at such a rate at most; a collection at many times that."""
CALM: Final = 2 << 20
"""Bytes a second: while more than this is written to beyond what usually is, it is too early to
look, because a garbage collector is at work."""


@dataclass(frozen=True, slots=True)
class Writing:
    """How much of what was merged is written to.

    Attributes:
        lately: bytes in a second, on the mean of the last `LATELY_SECONDS`.
        usual: the same over a longer time, in which a garbage collection counts for little.
        seconds: in which `lately` was measured; before it counts as if nothing had been written.
    """

    lately: float = 0.0
    usual: float = 0.0
    seconds: float = 0.0

    def after(self, rate: float, seconds: float) -> Writing:
        """Return what is known after so many bytes a second, for so many seconds."""
        usual = min(rate, MOST_MORE + 2 * self.usual)
        return Writing(
            lately=_mean(self.lately, rate, seconds, LATELY_SECONDS),
            usual=_mean(self.usual, usual, seconds, USUAL_SECONDS),
            seconds=self.seconds + seconds,
        )

    def is_calm(self, rate: float) -> bool:
        """Tell whether no collector is at work, while so many bytes a second are written to."""
        return rate <= CALM + self.usual

    def stood_out(self) -> float:
        """Return the bytes that were written to lately beyond those that usually are."""
        expected = self.usual * (1 - math.exp(-self.seconds / LATELY_SECONDS))
        return LATELY_SECONDS * (self.lately - expected)

    def seen_to(self) -> Writing:
        """Return what is known once all that was written to is being looked at."""
        return Writing(usual=self.usual)


def _mean(before: float, rate: float, seconds: float, over: float) -> float:
    """Return a mean of a rate in which what is longer ago than `over` seconds counts for little."""
    return rate + (before - rate) * math.exp(-seconds / over)
