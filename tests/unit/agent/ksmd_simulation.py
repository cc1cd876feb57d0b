"""A ksmd without a kernel: it scans, merges what it finds twice, and takes time for it.

What is merged and what a page costs the test says; how fast it goes is what the agent's own
functions tell it, on a clock of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from ksm_operator.agent import ksmd as tuning
from ksm_operator.agent.ksmd import Scanning
from ksm_operator.agent.reading import Reading, merged
from ksm_operator.agent.wire import Ksmd

PAGE = 4096
STEP = 0.01
"""Seconds between two looks of the simulation."""


@dataclass
class Memory:
    """Pages of the node that ksmd goes over.

    Attributes:
        pages: how many.
        duplicates: of these, how many have their like and can be merged.
        broken: merged pages that are written to in a second.
    """

    pages: int
    duplicates: int = 0
    broken: float = 0.0


@dataclass
class Machine:
    """Ksmd and the agent that governs it.

    Attributes:
        ksmd: the policy's tuning.
        memory: what there is.
        cost: microseconds of CPU for a page, at a time.
        merged: pages that are merged now.
        used: CPU seconds of ksmd after each step.
        told: what it was told at each step.
        now: seconds.
        containers: how many were enrolled.
        available: percent of memory.
        advised: pages of a batch that the kernel's advisor chooses.
    """

    ksmd: Ksmd
    memory: Memory
    cost: Callable[[float], float] = lambda _: 2.0
    merged: float = 0.0
    used: list[float] = field(default_factory=lambda: [0.0])
    told: list[Scanning] = field(default_factory=list)
    now: float = 0.0
    containers: int = 1
    available: float = 50.0
    advised: int = 100
    _scanned: float = 0.0
    _looked: float = 0.0
    _scans: int = 0
    _breaks: float = 0.0
    _last: Reading | None = None
    _debt: float = 0.0
    _asleep: float = 0.0
    _next: float = 0.0
    _next_decision: float = 0.0

    def run(self, seconds: float) -> "Machine":
        """Let time pass."""
        until = self.now + seconds
        while self.now < until:
            self._agent()
            self._scan(self.told[-1])
            self.now += STEP
            broken = min(self.merged, self.memory.broken * STEP)
            self.merged -= broken
            self._breaks += broken
            self._looked = min(self._looked, self.memory.duplicates - broken)
        return self

    def share(self, seconds: float) -> float:
        """CPUs that ksmd had in the last so many seconds."""
        steps = round(seconds / STEP)
        return (self.used[-1] - self.used[-1 - steps]) / seconds

    def most(self, seconds: float) -> float:
        """The most CPUs that it had over any so many seconds."""
        steps = round(seconds / STEP)
        pairs = zip(self.used, self.used[steps:], strict=False)
        return max((after - before) / seconds for before, after in pairs)

    def _agent(self) -> None:
        last = self.told[-1] if self.told else None
        if last is not None and self.now < self._next:
            self.told.append(last)
            return
        if last is None:
            told = tuning.start(self.ksmd, self.reading(), PAGE)
        elif self.now < self._next_decision:
            told = tuning.meter(last, self.ksmd, self.now, self.used[-1])
        else:
            told = tuning.decide(last, self.ksmd, self.reading(), PAGE)
        if last is None or self.now >= self._next_decision:
            self._next_decision = self.now + tuning.INTERVAL
        self._next = min(self.now + tuning.tick(told, self.ksmd), self._next_decision)
        self.told.append(told)

    def reading(self) -> Reading:
        """What the agent would measure now."""
        saved, breaks = int(self.merged) * PAGE, int(self._breaks)
        self._last = Reading(
            at=self.now,
            cpu=self.used[-1],
            full_scans=self._scans,
            breaks=breaks,
            news=self.containers,
            saved=saved,
            merged=merged(self._last, saved, breaks, PAGE),
            known=int(min(self._scanned + self._looked, self.memory.pages)) * PAGE
            if not self._scans
            else self.memory.pages * PAGE,
            anonymous=self.memory.pages * PAGE,
            charged=self.memory.pages * PAGE,
            available_percent=self.available,
        )
        return self._last

    def _scan(self, told: Scanning) -> None:
        """One step of ksmd: a batch that was begun is finished whatever it is told."""
        used, left = 0.0, STEP
        while left > 0:
            if self._debt > 0:
                part = min(left, self._debt)
                self._debt -= part
                used += part
            elif self._asleep > 0:
                part = min(left, self._asleep)
                self._asleep -= part
            elif told.run:
                pages = self.advised if self.ksmd.tuning == "Advisor" else told.pages_to_scan
                self._debt = pages * self.cost(self.now) / 1e6
                self._look_at(pages)
                self._asleep = told.sleep_millisecs / 1000
                continue
            else:
                break
            left -= part
        self.used.append(self.used[-1] + used)

    def _look_at(self, pages: int) -> None:
        """Merge what is seen for the second time; the likes of a page are spread evenly."""
        left = float(pages)
        while left > 0 and self.memory.pages:
            part = min(left, self.memory.pages - self._scanned)
            share = part / self.memory.pages * self.memory.duplicates
            if self._scans:
                seen = min(self._looked, self.memory.duplicates)
                self.merged = min(seen, self.merged + share)
            self._looked = min(self.memory.duplicates, self._looked + share)
            self._scanned += part
            left -= part
            if self._scanned >= self.memory.pages:
                self._scanned = 0.0
                self._scans += 1
