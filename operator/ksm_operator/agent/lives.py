"""How long containers that come new stay on the node, by those that came lately. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

YOUNG_SECONDS: Final = 60.0
"""A container that is older tells nothing of what comes new: most of a node's stay, some of them
(jobs, tests, whatever crashes) come and go all the time."""
REMEMBERED: Final = 10
"""After so many new ones, or so many more at once, what was seen before counts half: what starts
with a node, or with a rollout, stays, and tells nothing of the jobs that come from then on."""
HALF_LIFE: Final = 3600.0
"""Seconds after which it counts half if nobody comes."""


class Lives:
    """Sees containers come and go."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._at = 0.0
        self._lived = 0.0
        self._ends = 0.0

    def follow(self, at: float, containers: Iterable[str], is_alive: Callable[[str], bool]) -> None:
        """See who is there.

        Args:
            at: seconds on a clock that only moves forward.
            containers: all that merge now, by any name that is not used again.
            is_alive: whether one that merges no more lives on: it was let go, as the container that
                holds a pod's namespaces is a moment after its start, which says nothing of lives.
        """
        passed, self._at = at - self._at if self._since else 0.0, at
        there = set(containers)
        for name, since in list(self._since.items()):
            if at - since <= YOUNG_SECONDS:
                self._lived += passed
            if name not in there:
                self._ends += at - since <= YOUNG_SECONDS and not is_alive(name)
                del self._since[name]
        new = there - self._since.keys()
        self._since.update(dict.fromkeys(new, at))
        forgotten = 0.5 ** (min(1.0, len(new) / REMEMBERED) + passed / HALF_LIFE)
        self._lived *= forgotten
        self._ends *= forgotten

    def expected(self) -> float:
        """Return the seconds that a new one is likely to stay; infinite while none has ended.

        What all of them lived while they were young over how many ended then: the estimate of
        greatest likelihood where the time that has passed does not matter to who ends.
        """
        return self._lived / self._ends if self._ends > 0 else float("inf")
