"""How long ksmd stands still for others who merge, and whom the status names. Pure.

What is paused for goes and comes again as it likes: a pod may ask for merging and change its mind
in a loop. So the pause outlasts it, longer each time it comes again soon, and what the status says
changes no more often than a person would read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ksm_operator.agent.wire import ForeignMerger

SHORTEST_HOLD: Final = 15.0
"""Seconds that a pause outlasts the last merger. Its children, which nobody announces, are looked
for in that time."""
LONGEST_HOLD: Final = 600.0
CALM: Final = 600.0
"""Seconds without a merger after which the next one is taken for the first."""
NAMES_SECONDS: Final = 30.0
"""Least time between two changes of whom the status names."""


@dataclass(frozen=True, slots=True)
class Isolation:
    """Whether the domain is alone in the kernel's pool.

    Attributes:
        broken: others merge too, or did a moment ago.
        until: when that is over if nobody is seen any more.
        hold: seconds that it outlasts the last one.
        restored: when it was over last.
        times: how often it was broken.
    """

    broken: bool = False
    until: float = 0.0
    hold: float = 0.0
    restored: float = float("-inf")
    times: int = 0

    def follow(self, now: float, *, foreign: bool) -> Isolation:
        """Return what is so after a look at the node, `now` on a clock that only moves forward."""
        if foreign:
            hold, times = self.hold, self.times
            if not self.broken:
                soon = now - self.restored < CALM
                hold = min(LONGEST_HOLD, 2 * self.hold) if soon else SHORTEST_HOLD
                times += 1
            return Isolation(True, now + hold, hold, self.restored, times)
        if self.broken and now >= self.until:
            return Isolation(False, self.until, self.hold, now, self.times)
        return self


@dataclass(frozen=True, slots=True)
class Named:
    """Whom the status names.

    Attributes:
        mergers: the first few.
        count: of all.
        since: when they were named.
    """

    mergers: tuple[ForeignMerger, ...] = ()
    count: int = 0
    since: float = 0.0

    def follow(
        self, now: float, mergers: tuple[ForeignMerger, ...], count: int, *, broken: bool
    ) -> Named:
        """Return whom to name; those who were seen last stay named until isolation is restored."""
        if not broken:
            return Named()
        if not mergers or (self.mergers and now - self.since < NAMES_SECONDS):
            return self
        return Named(mergers, count, now)
