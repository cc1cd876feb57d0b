"""How much ksmd may scan: its CPU limit held by feedback on the CPU that it really used. Pure.

What a page costs ksmd varies by more than a factor of thirty within seconds, so no formula on
pages holds a limit. Every interval the CPU time of ksmd (schedstat) is set against a budget that
grows with the limit. ``Auto`` sizes the batches so that ksmd stays just below it; whatever the
tuning, a budget that is overdrawn stops ksmd (``run`` 0) until it is level again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ksm_operator.agent.wire import Ksmd

INTERVAL: Final = 1.0
"""Seconds between two measurements while ksmd may run."""
AIM: Final = 0.9
"""Share of the limit that `Auto` steers for, so that it rarely has to stop ksmd."""
SLEEP_MILLISECONDS: Final = 20
"""Pause between batches under `Auto`: the kernel's default."""
START_PAGES: Final = 100
LEAST_PAGES: Final = 16
MOST_PAGES: Final = 20_000
"""Batch sizes of `Auto`. ksmd holds its lock for a whole batch: 20,000 dear pages are 0.3 s."""
CREDIT_SECONDS: Final = 0.5
"""How much unused budget is kept: half a second's worth."""
MOST_DEBT: Final = 2.0
"""CPU seconds of overdraft that are remembered: more than one interval can bring."""
AVAILABLE_HYSTERESIS: Final = 2
"""Percentage points above the threshold at which scanning stops again."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What was measured since the last decision.

    Attributes:
        seconds: length of the interval.
        cpu_ns: CPU time of ksmd in it.
        available_percent: MemAvailable in percent of MemTotal, now.
    """

    seconds: float
    cpu_ns: int
    available_percent: float


@dataclass(frozen=True, slots=True)
class Scanning:
    """What ksmd shall do until the next decision.

    Attributes:
        run: whether it scans.
        pages_to_scan: pages per batch.
        sleep_millisecs: pause between batches.
        budget: CPU seconds that may be used at once; negative while overdrawn.
        wanted: whether memory is scarce enough to scan (`startBelowAvailablePercent`).
    """

    run: bool
    pages_to_scan: int
    sleep_millisecs: int
    budget: float = 0.0
    wanted: bool = True


def start(ksmd: Ksmd, available_percent: float) -> Scanning:
    """Return what to begin with, before anything was measured."""
    pages, sleep = START_PAGES, SLEEP_MILLISECONDS
    if ksmd.tuning == "Fixed" and ksmd.pages_to_scan and ksmd.sleep_milliseconds:
        pages, sleep = ksmd.pages_to_scan, ksmd.sleep_milliseconds
    wanted = scarce(ksmd, available_percent, scanning=False)
    return Scanning(wanted, pages, sleep, 0.0, wanted)


def scarce(ksmd: Ksmd, available_percent: float, *, scanning: bool) -> bool:
    """Tell whether memory is scarce enough to scan, with hysteresis."""
    threshold = ksmd.start_below_available_percent
    if threshold >= 100:  # noqa: PLR2004 - 100 percent: always
        return True
    return available_percent < threshold + (AVAILABLE_HYSTERESIS if scanning else 0)


def decide(now: Scanning, ksmd: Ksmd, sample: Sample) -> Scanning:
    """Return what ksmd shall do next.

    Args:
        now: what it was told in the interval that ends.
        ksmd: the policy's tuning.
        sample: what was measured in that interval.
    """
    limit = ksmd.cpu_limit_milli_cpu / 1000
    used = sample.cpu_ns / 1e9
    budget = now.budget + limit * sample.seconds - used
    budget = max(-MOST_DEBT, min(limit * CREDIT_SECONDS, budget))
    wanted = scarce(ksmd, sample.available_percent, scanning=now.wanted)
    decided = replace(now, run=wanted and budget >= 0, budget=budget, wanted=wanted)
    if ksmd.tuning == "Fixed" or not now.run or sample.seconds <= 0:
        return decided
    return replace(
        decided,
        pages_to_scan=resize(now.pages_to_scan, used / sample.seconds, min(limit, 1.0) * AIM),
    )


def resize(pages: int, share: float, aim: float) -> int:
    """Return the batch size that brings ksmd's share of a CPU to what is aimed at.

    A batch of duration b between pauses of s uses b / (b + s); at most doubled at once, because
    the pages that come may be dearer, and cut as far as needed.

    Args:
        pages: the present batch size.
        share: of one CPU that ksmd used with it, 0 to 1.
        aim: of one CPU that it should use, below 1.
    """
    share = min(max(share, 1e-6), 0.99)
    factor = (aim / (1 - aim)) / (share / (1 - share))
    return round(max(LEAST_PAGES, min(MOST_PAGES, pages * min(2.0, factor))))
