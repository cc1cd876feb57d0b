"""Merge debt: what the node would need if all that is merged came apart at once. Pure.

Merging a page adds one to the debt and one to the memory that is available, and so does a page
that comes apart take one from each. So the debt is more than what is available exactly if the
node's processes hold more than its memory could without merging: when programs, or pods that the
scheduler has added, grew into what merging had saved. Giving pages back cures nothing of that, as
it lowers both alike. What can be done is not to save any more for them to grow into: ksmd is
stopped, until memory is available again.

A debt below a small share of the node's memory never stops it. Otherwise a node that is full for
other reasons, where merging is needed most, could not begin. That share is nobody's to set: what is
asked to stay available in a release is caution, and would here be a licence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

FLOOR_SHARE: Final = 0.02
"""Of MemTotal: by less than that what is available moves on a busy node anyway."""
GO_ON_SHARE: Final = 0.9
"""Of the limit, below which merging goes on: what is available moves all the time."""


@dataclass(frozen=True, slots=True)
class Debt:
    """The merge debt of a node.

    Attributes:
        size: bytes.
        limit: what it may come to: what the node can take, and at least `FLOOR_SHARE` of it all.
        is_held: whether nothing more is to be merged.
    """

    size: int
    limit: int
    is_held: bool

    def message(self, *, others_scan: bool = False) -> str:
        """Say what it means and what to do; empty while merging may go on.

        Args:
            others_scan: ksmd runs because somebody else has it run.
        """
        if not self.is_held:
            return ""
        ksmd = "somebody else has ksmd scan" if others_scan else "ksmd is stopped"
        return (
            f"Merged memory of {_gib(self.size)} would need more than the {_gib(self.limit)} left "
            f"if it came apart at once: {ksmd}, what is merged stays. Move pods away or add memory."
        )


def reckon(before: Debt | None, size: int, room: int, total: int) -> Debt:
    """Return the debt now, and whether merging has to stop.

    Args:
        before: the last one.
        size: what merging gives back, in bytes.
        room: what the node can take before the kubelet evicts a pod, see `node_headroom`.
        total: memory of the node, in bytes.
    """
    limit = max(room, int(FLOOR_SHARE * total))
    share = GO_ON_SHARE if before is not None and before.is_held else 1.0
    return Debt(size, limit, size > share * limit)


def _gib(size: int) -> str:
    return f"{math.ceil(size / (1 << 30) * 10) / 10:.1f} GiB"
