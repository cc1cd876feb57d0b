"""This machine's ksmd: what it did, what it is told, and how it begins each run anew."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks.governor.seen import Seen
from ksm_operator.agent.host import Host, boot_time
from ksm_operator.kernel import (
    Helper,
    KsmSysfs,
    find_ksmd,
    find_memory_hierarchy,
    ksmd_cpu_ns,
    page_size,
    probe,
    read_meminfo,
    read_vmstat,
)
from support import kernel

if TYPE_CHECKING:
    from benchmarks.governor.cast import Cast

CLEAN_PAGES: Final = 10_000
CLEAN_SLEEP: Final = 1
"""For the scans after a run, which only find that its programs are gone."""
CLEAN_SECONDS: Final = 30.0


class NotAlone(Exception):  # noqa: N818 - names what was found
    """Something else on this machine merges: its pages would be counted with the load's."""


@dataclass(frozen=True, slots=True)
class Counters:
    """What ksmd did until a moment.

    Attributes:
        kept: bytes of merged pages, each counted once (pages_shared).
        records: bytes of ksmd's own records, by which general_profit is less than what it saves.
        cpu: CPU seconds of ksmd.
        breaks: merged pages that were written to (cow_ksm).
    """

    kept: int
    records: int
    cpu: float
    breaks: int


class Node:
    """The machine.

    Attributes:
        host: as the agent sees it.
        sysfs: ksmd's files.
    """

    def __init__(self, helper: Helper) -> None:
        """Look at the machine.

        Raises:
            RuntimeError: the kernel lacks what the benchmark needs.
        """
        ksmd, features = find_ksmd(), probe()
        if ksmd is None or features.method != "Prctl" or not features.smaps_shows_merged:
            raise RuntimeError("needed are ksmd in sight, and what Linux 6.12 tells of merging")
        self.sysfs = KsmSysfs()
        self.host = Host(
            sysfs=self.sysfs,
            hierarchy=find_memory_hierarchy(),
            features=features,
            tracer=helper,
            boot_time=boot_time(),
            ksmd=ksmd,
        )
        self._ksmd = ksmd

    def counters(self) -> Counters:
        """Return what ksmd did until now."""
        values = self.sysfs.read()
        return Counters(
            kept=(values.pages_shared or 0) * page_size(),
            records=values.saved_bytes(page_size()) - (values.general_profit or 0),
            cpu=ksmd_cpu_ns(self._ksmd) / 1e9,
            breaks=read_vmstat().get("cow_ksm", 0),
        )

    def see(self, at: float, cast: Cast) -> Seen:
        """Return what an algorithm reads, so many seconds after it was started."""
        memory, values = read_meminfo(), self.sysfs.read()
        return Seen(
            at=at,
            total=memory["MemTotal"],
            available=memory["MemAvailable"],
            free=memory["MemFree"] + memory["Buffers"] + memory["Cached"],
            anonymous=memory["AnonPages"],
            resident=cast.resident(),
            page_size=page_size(),
            came=cast.came,
            went=cast.went,
            run=values.run or 0,
            pages_to_scan=values.pages_to_scan or 0,
            sleep_millisecs=values.sleep_millisecs or 0,
        )

    def clean(self) -> None:
        """Make sure that nothing is merged, and put the kernel's defaults in place.

        Raises:
            NotAlone: something is mergeable, or was merged and stays so.
        """
        others = kernel.merging_processes()
        if others:
            raise NotAlone(f"processes merge that are not the benchmark's: {sorted(others)}")
        self.write({"run": 0, "advisor_mode": "none"})
        self.write({"pages_to_scan": CLEAN_PAGES, "sleep_millisecs": CLEAN_SLEEP, "run": 1})
        deadline = time.monotonic() + CLEAN_SECONDS
        while self._remains():
            if time.monotonic() > deadline:
                raise NotAlone(f"pages stay merged: {self.sysfs.read()}")
            time.sleep(0.1)
        self.write(kernel.DEFAULTS)

    def write(self, values: dict[str, int | str]) -> None:
        """Write what this kernel has a file for and what differs."""
        for name, value in values.items():
            if self.sysfs.read().get(name) not in (None, value):
                self.sysfs.write(name, value)

    def _remains(self) -> bool:
        values = self.sysfs.read()
        pages = (values.pages_shared, values.pages_sharing, values.pages_unshared)
        return any(pages) or bool(values.ksm_zero_pages)
