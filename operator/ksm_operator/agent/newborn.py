"""When to glance at containers that came just now. Pure.

A runtime makes one process after another in a new container, and the last of them becomes its
program. Whichever is seen before its child is made hands merging down; to be before the program,
the glances have to be closer together than the runtime's steps, which take milliseconds on an idle
machine and seconds on a full one. So the pause is a share of the container's age. A glance is one
read of `cgroup.procs`; only somebody new in it is a reason to do more.
"""

from __future__ import annotations

from typing import Final

SHORTEST: Final = 0.003
EACH: Final = 0.0005
"""Seconds of pause for each such container, so that many of them take a part of one CPU only."""
SHARE: Final = 1 / 20
"""Of its age, for the pause."""
GROWN_UP: Final = 10.0
"""Seconds after which a container is like all others."""


class Newborn:
    """Containers that came just now, by cgroup path."""

    def __init__(self) -> None:
        self._born: dict[str, float] = {}
        self._next: dict[str, float] = {}

    def add(self, path: str, now: float) -> None:
        """Take one that appeared at this moment."""
        self._born[path] = self._next[path] = now

    def due(self, now: float) -> list[str]:
        """Return those to glance at now; each comes again after its pause."""
        found = [path for path, when in self._next.items() if when <= now]
        for path in found:
            age = now - self._born[path]
            if age > GROWN_UP:
                self.drop(path)
            else:
                self._next[path] = now + max(SHORTEST, EACH * len(self._born), SHARE * age)
        return found

    def drop(self, path: str) -> None:
        """Forget one; it need not be known."""
        self._born.pop(path, None)
        self._next.pop(path, None)

    def next_due(self) -> float:
        """Return when the next glance is due; infinite where there is none."""
        return min(self._next.values(), default=float("inf"))
