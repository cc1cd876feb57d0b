"""What was found out about processes that are dear to look at. Pure, with an injected clock.

Before 6.14 all ranges of a process are read to see whether it merges, which takes the kernel 28 ms
for each GiB, with the lock held that the process needs for its own faults.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ksm_operator.kernel import Process

DEAR_CPU_SECONDS: Final = 0.01
"""A look that takes less is made whenever somebody wants it."""
MOST_CPU_SHARE: Final = 0.01
"""Of one core for looks at all that are dear: at one of 256 GiB every 12 minutes."""
UNASKED_SECONDS: Final = 120.0
"""Where nobody has asked for so long after it was due, the process has ended: two rounds."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found.

    Attributes:
        merging: whether it merged.
        cpu_seconds: what the look took.
        at: when that was.
    """

    merging: bool
    cpu_seconds: float
    at: float


class Verdicts:
    """Those that are good until another look is due."""

    def __init__(self) -> None:
        self._kept: dict[Process, Verdict] = {}

    def get(self, process: Process, now: float) -> bool | None:
        """Return whether it merges, as found before; None if it is to be looked at."""
        known = self._kept.get(process)
        return known.merging if known is not None and now < self._due(known) else None

    def keep(self, process: Process, verdict: Verdict) -> None:
        """Take what was found; only what was dear is worth keeping."""
        self._kept.pop(process, None)
        if verdict.cpu_seconds >= DEAR_CPU_SECONDS:
            self._kept[process] = verdict
        self._kept = {
            one: known
            for one, known in self._kept.items()
            if verdict.at < self._due(known) + UNASKED_SECONDS
        }

    def accuse(self, process: Process) -> None:
        """Have one merge until the next look: it was seen to ask."""
        known = self._kept.get(process)
        if known is not None:
            self._kept[process] = replace(known, merging=True)

    def _due(self, verdict: Verdict) -> float:
        # So all of them together take no more than the share.
        return verdict.at + len(self._kept) * verdict.cpu_seconds / MOST_CPU_SHARE
