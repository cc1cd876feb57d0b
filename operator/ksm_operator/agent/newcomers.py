"""Which containers came since ksmd was last sent over all memory, and how long they stay. Pure.

What a burst merges is worth what it keeps until those whose memory it is end. Those that have been
there for long say nothing of that: most of a node's containers stay, some (jobs, tests, whatever
crashes) come and go all the time.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from ksm_operator.agent.worth import LONGEST_LIFE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ksm_operator.agent.pace import Pace

WATCHED_SECONDS: Final = 60.0
"""After a burst was begun for them containers still tell of lives for so long. Who lives then is
one of those that stay."""


class Newcomers:
    """Sees containers come and go."""

    def __init__(self) -> None:
        self._came: dict[str, float] = {}
        self._served: set[str] = set()
        self._watched: dict[str, float] = {}
        self._there: set[str] = set()
        self._at = 0.0
        self._before = math.inf
        self._lived = 0.0
        self._ends = 0

    @property
    def waiting(self) -> frozenset[str]:
        """Those that came since the last burst began, or since a scan that it was drawn out for."""
        return frozenset(self._came)

    @property
    def served(self) -> frozenset[str]:
        """Those that the last burst was for."""
        return frozenset(self._served)

    def follow(self, at: float, containers: Iterable[str], is_alive: Callable[[str], bool]) -> None:
        """See who is there.

        Args:
            at: seconds on a clock that only moves forward.
            containers: all that merge now, by any name that is not used again.
            is_alive: whether one that merges no more lives on: it was let go, as the container that
                holds a pod's namespaces is a moment after its start, which says nothing of lives.
        """
        passed, self._at, there = at - self._at, at, set(containers)
        for name, until in list(self._watched.items()):
            if name in there and at <= until:
                self._lived += passed
                continue
            del self._watched[name]
            if at <= until:
                self._lived += passed
                self._ends += not is_alive(name)
        new = there - self._there
        self._came = {name: came for name, came in self._came.items() if name in there}
        self._came.update(dict.fromkeys(new, at))
        self._watched.update(dict.fromkeys(new, math.inf))
        self._served &= there
        self._there = there

    def keep_up(self, before: Pace | None, told: Pace) -> None:
        """Let those go on who were seen to, by what ksmd was told before and is told now."""
        if before is None or (before.period and not told.period):
            self._before = self.stay()
            self._lived, self._ends = 0.0, 0
            self._served = set()
            self._serve(until=math.inf)
        elif told.news != before.news:
            # Those that came before the scan began that has just ended had their first look in it.
            self._serve(until=before.scan.at if told.began is before.began else math.inf)

    def _serve(self, until: float) -> None:
        served = {name for name, came in self._came.items() if came <= until}
        self._served |= served
        for name in served:
            del self._came[name]
            self._watched[name] = self._at + WATCHED_SECONDS

    def stay(self) -> float:
        """Return the seconds that one of them is likely to stay; infinite while none has ended.

        What all lived together over how many ended: the estimate of greatest likelihood where the
        time that has passed does not matter to who ends. What was known when the last burst began
        counts as one that ended.
        """
        if math.isinf(self._before):
            return self._lived / self._ends if self._ends else math.inf
        return (min(self._before, LONGEST_LIFE) + self._lived) / (1 + self._ends)
