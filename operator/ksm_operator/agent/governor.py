"""Measures what ksmd does and tells it what to do next: the hands of `ksmd.decide`."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import msgspec

from ksm_operator.agent import ksmd as tuning
from ksm_operator.agent.cgroups import processes_in
from ksm_operator.agent.newcomers import Newcomers
from ksm_operator.agent.reading import Reading, available_percent, merged
from ksm_operator.agent.settings import scanning_values
from ksm_operator.kernel import page_size, read_meminfo
from ksm_operator.kernel.headroom import read_usage, usage_file

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from ksm_operator.agent.host import Host
    from ksm_operator.agent.knobs import Knobs, Troubles
    from ksm_operator.agent.wire import Ksmd
    from ksm_operator.kernel import KsmValues

CHARGED_SECONDS: Final = 3.0
"""Seconds between two looks at what containers are charged for: one small file for each. In a burst
it is looked at each second, because the burst is judged by what those hold that it was for."""


class Governor:
    """Governs ksmd on one node.

    Attributes:
        scanning: what ksmd was told last; None while it is not governed.
    """

    def __init__(
        self, host: Host, knobs: Knobs, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.scanning: tuning.Scanning | None = None
        self._forgotten: tuning.Scanning | None = None
        self._host = host
        self._knobs = knobs
        self._clock = clock
        self._next_decision = 0.0
        self._charged = 0
        self._next_charged = 0.0
        self._waiting = self._served = 0
        self._in_burst = False
        self._newcomers = Newcomers()
        self._last: Reading | None = None

    @property
    def merged(self) -> int:
        """Bytes that were merged since the first reading, whatever became of them."""
        return self._last.merged if self._last is not None else 0

    def forget(self) -> None:
        """Begin anew at the next step: the policy was edited, or ksmd was stopped meanwhile.

        What ksmd took too much of its limit is not forgotten.
        """
        self._forgotten, self.scanning = self.scanning or self._forgotten, None

    def step(
        self, ksmd: Ksmd, containers: int, paths: Collection[str], *, hurry: bool = False
    ) -> tuple[Troubles | None, float]:
        """Look at ksmd, and tell it something else if that is needed.

        Args:
            ksmd: what the policy says.
            containers: how many were enrolled since the agent began, as `Enrolment.begun`.
            paths: cgroups of those that merge now.
            hurry: whether somebody waits for ksmd's counters to become true, which takes a scan.

        Returns:
            What could not be written, None if nothing had to be, and the seconds until the next
            step.
        """
        now, before = self._clock(), self.scanning
        if before is not None and "run" in self._knobs.state.yielded:
            before = tuning.unmetered(before, now, self._host.ksmd_cpu_ns() / 1e9)
        if before is not None and now < self._next_decision:
            told = tuning.meter(before, ksmd, now, self._host.ksmd_cpu_ns() / 1e9)
            self.scanning = told
            troubles = None
            if told.run != before.run:
                troubles = self._knobs.apply({"run": int(told.run)})
        else:
            values = self._knobs.notice()
            if ksmd.tuning == "Advisor" and values.advisor_mode is None:
                # Which advisor_max_cpu, missing too, reports.
                ksmd = msgspec.structs.replace(ksmd, tuning="Auto")
            reading = replace(self._read(values, now, containers, paths), hurry=hurry)
            if before is None:
                told = tuning.start(ksmd, reading, page_size(), self._forgotten)
            else:
                told = tuning.decide(before, ksmd, reading, page_size())
            self._newcomers.keep_up(before.pace if before is not None else None, told.pace)
            # Where the pace is not followed its first burst never ends.
            self._in_burst = ksmd.tuning == "Auto" and told.wanted and not told.pace.period
            self.scanning = told
            self._next_decision = now + tuning.INTERVAL
            troubles = self._knobs.apply(scanning_values(told, ksmd))
        soon = min(tuning.tick(told, ksmd), self._next_decision - now)
        return troubles, max(0.0, soon)

    def _read(self, values: KsmValues, now: float, news: int, paths: Collection[str]) -> Reading:
        memory, saved = read_meminfo(), values.saved_bytes(page_size())
        known = (
            values.pages_shared,
            values.pages_sharing,
            values.pages_unshared,
            values.pages_volatile,
        )
        self._newcomers.follow(now, paths, self._is_alive)
        if self._in_burst or now >= self._next_charged:
            self._next_charged = now + CHARGED_SECONDS
            usage = {path: self._usage(path) for path in paths}
            self._charged = saved + sum(usage.values())
            self._waiting = sum(usage[path] for path in self._newcomers.waiting)
            self._served = sum(usage[path] for path in self._newcomers.served)
        breaks, last = self._host.breaks(page_size()), self._last
        self._last = Reading(
            at=now,
            cpu=self._host.ksmd_cpu_ns() / 1e9,
            full_scans=values.full_scans or 0,
            breaks=breaks,
            news=news,
            saved=saved,
            known=page_size() * sum(one or 0 for one in known),
            # AnonPages counts a merged page once, and the page of zeroes never (mm/rmap.c).
            anonymous=memory.get("AnonPages", 0) + saved,
            charged=self._charged,
            waiting=self._waiting,
            served=self._served,
            available_percent=available_percent(memory),
            merged=merged(last, saved, breaks, page_size()),
            stay=self._newcomers.stay(),
        )
        return self._last

    def _is_alive(self, path: str) -> bool:
        return bool(processes_in(self._host.hierarchy, path))

    def _usage(self, path: str) -> int:
        hierarchy = self._host.hierarchy
        return read_usage(usage_file(hierarchy, hierarchy.path(path))) or 0
