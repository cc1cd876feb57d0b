"""What the governor has measured up to a moment. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Reading:
    """What was measured up to a moment.

    Attributes:
        at: seconds on a clock that only moves forward.
        cpu: CPU seconds of ksmd.
        full_scans: scans of all memory that have ended.
        breaks: merged pages that were written to since (cow_ksm of /proc/vmstat, Linux 5.18; 0
            before), without those that we had processes give back.
        news: containers that were enrolled, and other reasons to scan soon.
        saved: bytes that merging gives back now.
        merged: bytes that were merged since the first reading, whatever became of them.
        known: bytes of memory that the last scan went over.
        anonymous: bytes of anonymous memory on the node, as much as it were if nothing were merged:
            what merges or is written to does not change it.
        charged: bytes charged to the containers that merge, in the same way. It counts page cache,
            as the other counts programs that do not merge: what is new has to show in both.
        waiting: bytes charged to the containers that wait for the next burst.
        served: bytes charged to those that the last burst was for.
        available_percent: MemAvailable in percent of MemTotal.
        stay: seconds that a container which comes new is likely to stay.
        hurry: whether somebody waits for ksmd's counters to become true, which takes a scan.
    """

    at: float
    cpu: float
    full_scans: int
    breaks: int
    news: int
    saved: int
    known: int
    anonymous: int
    charged: int
    available_percent: float
    merged: int = 0
    waiting: int = 0
    served: int = 0
    stay: float = float("inf")
    hurry: bool = False


def merged(last: Reading | None, saved: int, breaks: int, page_size: int) -> int:
    """Return what `Reading.merged` of the next reading is.

    The kernel counts what is merged now. What was written to meanwhile is known too; what ended is
    not, but ksmd comes upon that all at once, so that over a second or so it shows as a loss.
    """
    if last is None:
        return 0
    return last.merged + max(0, saved - last.saved + page_size * (breaks - last.breaks))


def broken(before: int, counted: int, given_back: int) -> int:
    """Return what `Reading.breaks` is; never less than it was.

    Args:
        before: what it was last.
        counted: by the kernel, which counts a page that is given back as one that is written to.
        given_back: pages, as far as that is known: a release tells at its end, so that what was
            taken for writes meanwhile is made up for by those that follow.
    """
    return max(before, counted - given_back)


def available_percent(memory: Mapping[str, int]) -> float:
    """Return MemAvailable in percent of MemTotal, of /proc/meminfo."""
    return 100 * memory.get("MemAvailable", 0) / max(1, memory.get("MemTotal", 0))
