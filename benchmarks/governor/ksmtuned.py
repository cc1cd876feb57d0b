"""What ksmtuned does: the daemon of qemu-kvm, of RHEL, Debian and Proxmox. Pure.

Facts: the script `ksmtuned` and `/etc/ksmtuned.conf` of qemu-kvm (Debian: ksm-control-daemon), with
the defaults of that file. It looks once a minute, and whenever libvirt tells it (SIGUSR1) that a
virtual machine came or went. More is scanned for as long as little memory is free, less afterwards;
nothing while neither the virtual machines' memory nor what is used comes near the node's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from benchmarks.governor.seen import Seen, Writes

MONITOR_INTERVAL: Final = 60.0
"""Seconds, KSM_MONITOR_INTERVAL."""
BOOST: Final = 300
DECAY: Final = -50
LEAST_PAGES: Final = 64
MOST_PAGES: Final = 1250
"""Pages of a batch: KSM_NPAGES_BOOST, _DECAY, _MIN, _MAX."""
SLEEP: Final = 10
"""Milliseconds, KSM_SLEEP_MSEC: for a node of 16 GiB, and the least for any."""
SLEEP_MEMORY: Final = 16 << 30
THRESHOLD_PERCENT: Final = 20
LEAST_THRESHOLD: Final = 2048 << 10
"""KSM_THRES_COEF, percent of all memory, and KSM_THRES_CONST, which the script takes for KiB."""


@dataclass(frozen=True, slots=True)
class Ksmtuned:
    """What it remembers.

    Attributes:
        pages: of a batch; the script begins with none.
        due: when it looks next, unless it is told to look.
        told: how often virtual machines had come and gone at the last look.
    """

    pages: int = 0
    due: float = 0.0
    told: int = 0


SETTLED: Final = Ksmtuned(pages=MOST_PAGES)
"""After five minutes of pressure."""


def step(state: Ksmtuned, seen: Seen) -> tuple[Ksmtuned, Writes]:
    """Return what it remembers and what it writes at a moment."""
    told = seen.came + seen.went
    if seen.at < state.due and told == state.told:
        return state, ()
    due = seen.at + MONITOR_INTERVAL
    threshold = max(seen.total * THRESHOLD_PERCENT // 100, LEAST_THRESHOLD)
    if seen.resident + threshold < seen.total and seen.free > threshold:
        return Ksmtuned(state.pages, due, told), (("run", 0),)
    change = BOOST if seen.free < threshold else DECAY
    pages = min(MOST_PAGES, max(LEAST_PAGES, state.pages + change))
    sleep = max(SLEEP, SLEEP * SLEEP_MEMORY // seen.total)
    writes = (("pages_to_scan", pages), ("sleep_millisecs", sleep), ("run", 1))
    return Ksmtuned(pages, due, told), writes
