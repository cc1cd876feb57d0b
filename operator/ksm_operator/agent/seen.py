"""What the agent knows of a container beyond its record: forgotten when it ends."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ksm_operator.agent.looks import TELLING_AGES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ksm_operator.agent.looks import Look
    from ksm_operator.kernel import Marks, Process

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Seen:
    """What was found in a container that is not written to disk.

    Attributes:
        skipped: processes that are left alone, with the reason.
        postponed: processes to try again.
        first: the oldest process seen.
        logged: reasons that were logged already.
        looks: what enrolled processes were like when their ranges were read last.
        spread: what those that merge as a whole were like when their ranges were counted last.
        by_ranges: those that are better enrolled by ranges, whatever their ranges look like now: a
            release leaves a reservation in parts of which ksmd would look at each address.
        young: the age at which enrolled processes were judged by what they have open, of those that
            are to be judged again when they are older.
        asked: whether its pod asks for merging.
    """

    skipped: dict[Process, str] = field(default_factory=dict)
    postponed: dict[Process, str] = field(default_factory=dict)
    first: Process | None = None
    logged: dict[Process, str] = field(default_factory=dict)
    looks: dict[Process, Look] = field(default_factory=dict)
    spread: dict[Process, Look] = field(default_factory=dict)
    by_ranges: dict[Process, Marks] = field(default_factory=dict)
    young: dict[Process, float] = field(default_factory=dict)
    asked: bool = False

    def forget_but(self, living: Iterable[Process]) -> None:
        """Forget everybody else, and who was to be tried again: that is now."""
        here = set(living)
        self.skipped = {one: why for one, why in self.skipped.items() if one in here}
        self.logged = {one: why for one, why in self.logged.items() if one in here}
        self.looks = {one: look for one, look in self.looks.items() if one in here}
        self.spread = {one: look for one, look in self.spread.items() if one in here}
        self.by_ranges = {one: marks for one, marks in self.by_ranges.items() if one in here}
        self.young = {one: age for one, age in self.young.items() if one in here}
        self.postponed = {}

    def note_age(self, process: Process, age: float) -> None:
        """Take at which age a process was judged."""
        if age < TELLING_AGES[-1]:
            self.young[process] = age
        else:
            self.young.pop(process, None)

    def note_asked(self, asked: bool) -> None:  # noqa: FBT001 - it is all that this is about
        """Take whether its pod asks; everybody is judged anew when that is new."""
        if asked != self.asked:
            self.asked = asked
            self.skipped.clear()
            self.looks.clear()

    def skip(self, process: Process, reason: str) -> None:
        """Leave a process alone until it is looked at anew."""
        self.skipped[process] = reason
        if self.logged.get(process) != reason:
            self.logged[process] = reason
            log.info("process skipped", extra={"pid": process.pid, "reason": reason})
