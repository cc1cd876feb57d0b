"""What the main loop does when. Times are those of `time.monotonic`, and injected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

NEVER: Final = float("inf")
START_SECONDS: Final = 5.0
"""How long the status waits after a start for the node's object and the first look at others."""
REPORT_SECONDS: Final = 5.0
NEWS_REPORT_SECONDS: Final = 0.25
"""Seconds between two looks at the status: without and with something having happened."""


def is_too_early(since_start: float, *, listed: bool, looked: bool) -> bool:
    """Tell whether the status would say less than the one that an earlier agent left.

    Args:
        since_start: seconds since the agent's start; it does not wait for ever.
        listed: the node's object was listed, which has the conditions and their times.
        looked: it is known whether others merge, or nothing can be known of that.
    """
    return since_start < START_SECONDS and not (listed and looked)


@dataclass(slots=True)
class Schedule:
    """The next time of each thing; 0 is at once.

    Attributes:
        resync: all containers are looked for.
        reconcile: what could not be done is tried again; news has it tried at once.
        govern: ksmd is tuned.
        guard: it is seen to that every container has room.
        happened: the status may be another one than at the last look.
    """

    resync: float = 0.0
    reconcile: float = 0.0
    govern: float = 0.0
    guard: float = 0.0
    happened: bool = True
    _report: float = 0.0
    _reported: float = 0.0

    def soonest(self) -> float:
        """Return when there is something to do without any news."""
        return min(self.resync, self.reconcile, self.govern, self.guard, self._report)

    def report_is_due(self, now: float) -> bool:
        """Tell whether the status is to be looked at now; if so, the next look is planned."""
        if self.happened:
            self._report = min(self._report, self._reported + NEWS_REPORT_SECONDS)
        if now < self._report:
            return False
        self.happened = False
        self._reported = now
        self._report = now + REPORT_SECONDS
        return True
