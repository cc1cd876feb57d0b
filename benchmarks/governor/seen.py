"""What the other projects' tuning reads of a node, and what it answers. Pure values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, TypeAlias

Writes: TypeAlias = tuple[tuple[str, int | str], ...]
"""Files under /sys/kernel/mm/ksm and what to write to them, in this order."""

PRESSED_PERCENT: Final = 19
"""Of its memory that a node under pressure has left: just below the 20 % where two peers start."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A node at a moment.

    Attributes:
        at: seconds since the algorithm was started.
        total: MemTotal of /proc/meminfo, bytes, as the next three.
        available: MemAvailable.
        free: MemFree, Buffers and Cached.
        anonymous: AnonPages.
        resident: memory of the enrolled processes, shared pages counted for each.
        page_size: bytes of a page.
        came: containers that were enrolled since the start.
        went: containers that ended since.
        run: of ksmd, as the next two.
        pages_to_scan: pages in a batch.
        sleep_millisecs: pause between batches.
    """

    at: float
    total: int
    available: int
    free: int
    anonymous: int
    resident: int
    page_size: int
    came: int
    went: int
    run: int
    pages_to_scan: int
    sleep_millisecs: int


def pressed(seen: Seen) -> Seen:
    """Return the same node short of memory: who waits for that begins at once, and goes on."""
    left = seen.total * PRESSED_PERCENT // 100
    return replace(seen, available=min(left, seen.available), free=min(left, seen.free))
