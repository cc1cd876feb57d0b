"""When all processes are gone over, and why. Pure, with an injected clock."""

from __future__ import annotations

from typing import Final

ROUND_SECONDS: Final = 60.0
ROUND_UNTOLD_SECONDS: Final = 2.0
"""From the end of one round to the next, with and without a kernel that tells."""
ROUND_LEAST_SECONDS: Final = 10.0
"""From one round for something missed to the next."""
REST_SHARE: Final = 3
"""A round for a thread that could not be found waits so many times as long as the last one took."""


class Rounds:
    """Says when the next one begins.

    Attributes:
        asked: somebody waits for a round that begins from now on. Other threads may set it.
        missed: somebody who merges may have been overlooked: all processes are gone over soon.
        unfound: a thread that asked has ended. Where its process lives on, a round finds it.
        told: whether the kernel tells who asks.
        hurry: the present round is not made in slices.
        begun: number of the present round, or of the last.
        done: number of the last one in a hurry that is over.
    """

    def __init__(self) -> None:
        self.asked = True
        self.missed = self.unfound = False
        self.told = False
        self.hurry = True
        self.begun = self.done = 0
        self._at = float("-inf")
        self._next = self._early = 0.0

    def due(self) -> float:
        """Return when the next one begins, if none is under way then."""
        early = self._early if self.unfound else self._next
        return min(self._next, early, self._hurry_due())

    def _hurry_due(self) -> float:
        if self.asked:
            return float("-inf")
        return self._at + ROUND_LEAST_SECONDS if self.missed else float("inf")

    def begin(self, now: float, *, under_way: bool) -> bool:
        """Begin one if it is due; one in a hurry takes the place of one that is under way."""
        asked = self.asked
        hurry = now >= self._hurry_due()
        if asked:
            self.asked = False  # nowhere else: a question that comes meanwhile must not be lost
        if not hurry and (under_way or now < self.due()):
            return False
        self.begun += 1
        self._at = now
        self.hurry = hurry
        self.missed = self.unfound = False
        return True

    def end(self, now: float) -> None:
        """Have the present one over."""
        if self.hurry:
            self.done = self.begun
        self._next = now + (ROUND_SECONDS if self.told else ROUND_UNTOLD_SECONDS)
        self._early = now + max(ROUND_LEAST_SECONDS, REST_SHARE * (now - self._at))
