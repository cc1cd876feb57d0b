"""Processes that are new on the node, each to be looked at once. Pure.

The kernel tells of a fork in the parent's name. If that has ended, or has changed its mind, nothing
leads to the child but that it is new.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Set as AbstractSet

MOST_WAITING: Final = 256
"""Where more are new at once, going over all processes costs less than remembering them."""


class Arrivals:
    """Who is new, until looked at."""

    def __init__(self) -> None:
        self._listed: AbstractSet[int] = frozenset()
        self._waiting: dict[int, bool] = {}

    def __bool__(self) -> bool:
        """Tell whether anybody waits to be looked at."""
        return bool(self._waiting)

    def compare(self, listing: AbstractSet[int]) -> set[int]:
        """Take the pids of all processes; return those that the listing before did not have."""
        new = set(listing - self._listed)
        self._listed = listing
        return new

    def wait(self, pids: Iterable[int], *, closely: bool) -> list[int]:
        """Have these looked at; return those that there is no room for.

        Args:
            pids: of processes.
            closely: at least one of them was made mergeable, as far as is known: a kernel that does
                not tell who is not believed.
        """
        rest = []
        for pid in pids:
            if pid in self._waiting or len(self._waiting) < MOST_WAITING:
                self._waiting[pid] = self._waiting.get(pid, False) or closely
            else:
                rest.append(pid)
        return rest

    def take(self, most: int) -> dict[int, bool]:
        """Return the next few, and whether each is to be looked at closely."""
        return {pid: self._waiting.pop(pid) for pid in list(self._waiting)[:most]}
