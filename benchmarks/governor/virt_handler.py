"""What KubeVirt's virt-handler does with ksmd: a variant of oVirt MOM's rules. Pure.

Facts: `pkg/virt-handler/ksm/ksm.go` of kubevirt/kubevirt, with its defaults; its model is
`doc/ksm.rules` of oVirt/mom. It looks when it starts, again when its loop begins, and then every
three minutes. Only a node with a fifth of its memory available or less is under pressure: more is
scanned at each look then; otherwise less, until it stops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from benchmarks.governor.seen import Seen, Writes

LOOP_INTERVAL: Final = 180.0
"""Seconds."""
LOOKS_AT_START: Final = 2
BOOST: Final = 300
DECAY: Final = -50
LEAST_PAGES: Final = 64
MOST_PAGES: Final = 1250
FIRST_PAGES: Final = 100
"""Pages of a batch."""
SLEEP: Final = 100
"""Milliseconds, where 16 GiB are in use; a tenth of it is the least."""
SLEEP_MEMORY: Final = 16 << 30
FREE_SHARE: Final = 0.2


@dataclass(frozen=True, slots=True)
class VirtHandler:
    """What it remembers; the rest it reads back from ksmd.

    Attributes:
        looks: how often it has looked.
        due: when it looks next.
    """

    looks: int = 0
    due: float = 0.0


SETTLED: Final = VirtHandler(looks=LOOKS_AT_START)
"""Long after its start."""


def step(state: VirtHandler, seen: Seen) -> tuple[VirtHandler, Writes]:
    """Return what it remembers and what it writes at a moment."""
    if seen.at < state.due:
        return state, ()
    looks = state.looks + 1
    due = seen.at if looks < LOOKS_AT_START else seen.at + LOOP_INTERVAL
    return VirtHandler(looks, due), _writes(seen)


def _writes(seen: Seen) -> Writes:
    if seen.available <= FREE_SHARE * seen.total:
        more = min(MOST_PAGES, seen.pages_to_scan + BOOST)
        return _running(seen, more if seen.run else FIRST_PAGES)
    less = seen.pages_to_scan + DECAY
    if seen.run and less >= LEAST_PAGES:
        return _running(seen, less)
    return (("run", 0),)


def _running(seen: Seen, pages: int) -> Writes:
    used = max(1, seen.total - seen.available)
    sleep = max(SLEEP // 10, SLEEP * SLEEP_MEMORY // used)
    return (("sleep_millisecs", sleep), ("pages_to_scan", pages), ("run", 1))
