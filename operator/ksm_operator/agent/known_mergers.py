"""Who was seen to ask for merging, for as long as that is worth a look. Pure.

The kernel does not tell when one asks anew, nor when it stops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ksm_operator.agent.foreign import Candidate
    from ksm_operator.kernel import Process

FORGET_SECONDS: Final = 600.0
"""One that has not been seen to merge for so long is left to the rounds."""
MOST_KNOWN: Final = 1000


@dataclass(slots=True)
class Known:
    """One of them.

    Attributes:
        who: as last seen.
        merging: whether it merged then.
        last: when it was seen to merge, or to ask.
    """

    who: Candidate
    merging: bool
    last: float


class KnownMergers:
    """Those that are looked at again and again, who was not for longest first."""

    def __init__(self) -> None:
        self._known: dict[Process, Known] = {}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._known)

    def get(self, process: Process) -> Known | None:
        """Return what is known of one."""
        return self._known.get(process)

    def merging(self) -> list[Candidate]:
        """Return those that merge, in the order of their pids."""
        found = [one.who for one in self._known.values() if one.merging]
        return sorted(found, key=lambda one: one.process)

    def note(self, who: Candidate, now: float, *, merging: bool) -> None:
        """Know one from now on; there is always room for one that merges while another does not."""
        known = self._known.get(who.process)
        if known is not None:
            known.who, known.merging = who, merging
            known.last = now if merging else known.last
            return
        if len(self._known) >= MOST_KNOWN:
            first = next((one for one, known in self._known.items() if not known.merging), None)
            if first is None:
                return
            del self._known[first]
        self._known[who.process] = Known(who, merging, now)

    def take(self, most: int) -> dict[Process, Known]:
        """Take out those that were not looked at for longest; `keep` puts one back."""
        return {one: self._known.pop(one) for one in list(self._known)[:most]}

    def keep(self, known: Known, now: float) -> bool:
        """Go on looking at one, unless it has not merged for long; tells which."""
        if now - known.last >= FORGET_SECONDS:
            return False
        self._known[known.who.process] = known
        return True
