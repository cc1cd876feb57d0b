"""What ksmd is told: a CPU limit held by feedback, and under it what the tuning asks for. Pure.

What a page costs ksmd varies by more than a factor of thirty within seconds, and holes in address
spaces cost it time without counting as pages, so no formula on pages holds a limit. Several times
a second ksmd's CPU time (schedstat) is set against a budget that grows with the limit. A budget
that is overdrawn stops ksmd (`run` 0) until it is level again: that holds whoever chooses the
batches, the policy (`Fixed`), the kernel (`Advisor`) or we (`Auto`, which chooses them so that the
budget is hardly ever overdrawn). Batches of the policy that are too large to be stopped in time are
divided, and so are their pauses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from ksm_operator.agent import budget as allowance
from ksm_operator.agent.budget import TICK_SHARE, Budget
from ksm_operator.agent.pace import Pace, begin, follow

if TYPE_CHECKING:
    from ksm_operator.agent.reading import Reading
    from ksm_operator.agent.wire import Ksmd

INTERVAL: Final = 1.0
"""Seconds between two decisions while ksmd may run."""
SHORTEST_TICK: Final = 0.02
REST_TICKS: Final = 4
"""So many times as long as in a burst, where the dearest pages would not take the limit either."""
AIM: Final = 0.9
"""Share of the limit that `Auto` steers for, so that it rarely has to stop ksmd."""
BURST_SLEEP: Final = 20
REST_SLEEP: Final = 1000
"""Milliseconds between batches in a burst, the kernel's default, and outside of it."""
LEAST_SLEEP: Final = 4
"""Milliseconds that a burst's pauses are cut to: shorter ones most kernels' timers round up."""
START_PAGES: Final = 100
LEAST_PAGES: Final = 16
MOST_PAGES: Final = 20_000
"""Batch sizes of `Auto`. ksmd looks at `run` between batches only: 20,000 dear pages are 0.3 s."""
MOST_STEP: Final = 4.0
"""By so much a batch is raised at once: in the first burst nothing is known of how large it may be.
Pages that turn out to be dearer overdraw the budget, which stops ksmd before the next step."""
AVAILABLE_HYSTERESIS: Final = 2
"""Percentage points above the threshold at which scanning stops again."""


@dataclass(frozen=True, slots=True)
class Scanning:
    """What ksmd shall do until the next decision.

    Attributes:
        run: whether it scans.
        pages_to_scan: pages per batch, unless the kernel's advisor chooses them.
        sleep_millisecs: pause between batches.
        smart_scan: whether it passes over pages that did not merge before; None leaves it as it is.
        budget: CPU time that may be used.
        wanted: whether memory is scarce enough to scan (`startBelowAvailablePercent`).
        pace: how often `Auto` has all memory scanned.
        burst_pages: the batch that kept ksmd at its limit in the last burst.
        decided: what was measured at the last decision.
        ran: seconds since then in which ksmd was told to scan.
        batch: pages of the batches that were begun last; 0 where the kernel chooses them.
        dearest: CPU seconds that a page is taken to cost at most.
    """

    run: bool
    pages_to_scan: int
    sleep_millisecs: int
    smart_scan: bool | None
    budget: Budget
    wanted: bool
    pace: Pace
    burst_pages: int
    decided: Reading
    ran: float = 0.0
    batch: int = 0
    dearest: float = allowance.DEAREST


def start(ksmd: Ksmd, now: Reading, page_size: int, last: Scanning | None = None) -> Scanning:
    """Return what to begin with, after the first reading.

    Args:
        ksmd: the policy's tuning.
        now: what was measured.
        page_size: bytes of a page.
        last: what ksmd was told before it was stopped, or before the policy was edited: neither
            pays for what it took.
    """
    wanted = scarce(ksmd, now.available_percent, scanning=False)
    budget, dearest = Budget(now.at, now.cpu), allowance.DEAREST
    if last is not None:
        budget = last.budget.reckon(limit_of(ksmd), now.at, now.cpu)
        dearest = allowance.forgotten(last.dearest, now.at - last.budget.at)
    first = Scanning(
        run=wanted and budget.left >= 0,
        pages_to_scan=ksmd.pages_to_scan or START_PAGES,
        sleep_millisecs=ksmd.sleep_milliseconds or BURST_SLEEP,
        smart_scan=None,
        budget=budget,
        wanted=wanted,
        pace=begin(now),
        burst_pages=START_PAGES,
        decided=now,
        batch=last.batch if last is not None else 0,
        dearest=dearest,
    )
    return _paced(first, ksmd, page_size) if ksmd.tuning == "Auto" else _as_written(first, ksmd)


def scarce(ksmd: Ksmd, available_percent: float, *, scanning: bool) -> bool:
    """Tell whether memory is scarce enough to scan, with hysteresis."""
    threshold = ksmd.start_below_available_percent
    if threshold >= 100:  # noqa: PLR2004 - 100 percent: always
        return True
    return available_percent < threshold + (AVAILABLE_HYSTERESIS if scanning else 0)


def tick(scanning: Scanning, ksmd: Ksmd) -> float:
    """Return the seconds until the budget has to be looked at again."""
    if not scanning.wanted:
        return INTERVAL
    resting = ksmd.tuning == "Auto" and scanning.pace.period > 0
    dear = (
        scanning.pages_to_scan * scanning.dearest > limit_of(ksmd) * scanning.sleep_millisecs / 1000
    )
    seconds = TICK_SHARE * limit_of(ksmd) * (REST_TICKS if resting and not dear else 1)
    return min(INTERVAL, max(SHORTEST_TICK, seconds))


def limit_of(ksmd: Ksmd) -> float:
    """Return the limit in CPUs; ksmd is one thread and cannot use more than one."""
    return min(1.0, ksmd.cpu_limit_milli_cpu / 1000)


def unmetered(scanning: Scanning, at: float, cpu: float) -> Scanning:
    """Return the same after a time in which somebody else had ksmd scan: that is on no account."""
    return replace(scanning, budget=Budget(at, cpu), batch=0)


def meter(scanning: Scanning, ksmd: Ksmd, at: float, cpu: float) -> Scanning:
    """Return what ksmd shall do after a look at its CPU time alone."""
    limit, ran, batch = limit_of(ksmd), scanning.ran, scanning.batch
    if scanning.run:
        ran += at - scanning.budget.at
        batch = 0 if ksmd.tuning == "Advisor" else scanning.pages_to_scan
    budget = scanning.budget.reckon(limit, at, cpu)
    return replace(
        scanning,
        run=scanning.wanted and budget.left >= 0,
        budget=budget,
        ran=ran,
        batch=batch,
        dearest=allowance.dearest(scanning.dearest, batch, limit, budget.left),
    )


def decide(scanning: Scanning, ksmd: Ksmd, now: Reading, page_size: int) -> Scanning:
    """Return what ksmd shall do next.

    Args:
        scanning: what it was told before.
        ksmd: the policy's tuning.
        now: what was measured.
        page_size: bytes of a page.
    """
    wanted = scarce(ksmd, now.available_percent, scanning=scanning.wanted)
    if wanted and not scanning.wanted and not scanning.pace.period:
        # The burst that memory became plenty in did not take as long as that lasted.
        scanning = replace(scanning, pace=begin(now))
    used = now.cpu - scanning.decided.cpu
    dearest = allowance.forgotten(scanning.dearest, now.at - scanning.decided.at)
    scanning = replace(scanning, wanted=wanted, decided=now, dearest=dearest)
    scanning = meter(scanning, ksmd, now.at, now.cpu)
    ran, scanning = scanning.ran, replace(scanning, ran=0.0)
    if ksmd.tuning != "Auto":
        return _as_written(scanning, ksmd)
    if not wanted:
        return scanning
    if not scanning.pace.period and ran > 0 and used > 0:
        pages = resize(scanning.burst_pages, used / ran, AIM * limit_of(ksmd))
        scanning = replace(scanning, burst_pages=pages)
    return _paced(replace(scanning, pace=follow(scanning.pace, now, page_size)), ksmd, page_size)


def _paced(scanning: Scanning, ksmd: Ksmd, page_size: int) -> Scanning:
    """Turn the pace into batches."""
    pace = scanning.pace
    pages, sleep = scanning.burst_pages, BURST_SLEEP
    if pace.period:
        every_second = scanning.decided.known / page_size / pace.period
        sleep = REST_SLEEP
        if every_second > MOST_PAGES:
            sleep = round(REST_SLEEP * MOST_PAGES / every_second)
        pages = max(1, math.ceil(every_second * sleep / 1000))
        if sleep < BURST_SLEEP or pages / sleep > scanning.burst_pages / BURST_SLEEP:
            # The limit does not allow even this; it is scanned as fast as it does.
            pages, sleep = scanning.burst_pages, BURST_SLEEP
    most = allowance.largest(limit_of(ksmd), scanning.dearest)
    pages, sleep = allowance.divide(pages, sleep, most, LEAST_SLEEP)
    chosen = None if ksmd.smart_scan is not None else not pace.thorough
    return replace(scanning, pages_to_scan=pages, sleep_millisecs=sleep, smart_scan=chosen)


def _as_written(scanning: Scanning, ksmd: Ksmd) -> Scanning:
    """Turn the policy's own numbers, if it has any, into batches that can be stopped in time."""
    if ksmd.pages_to_scan is None or ksmd.sleep_milliseconds is None:
        return scanning
    most = allowance.largest(limit_of(ksmd), scanning.dearest)
    pages, sleep = allowance.divide(ksmd.pages_to_scan, ksmd.sleep_milliseconds, most)
    return replace(scanning, pages_to_scan=pages, sleep_millisecs=sleep)


def resize(pages: int, share: float, aim: float) -> int:
    """Return the batch size that brings ksmd's share of a CPU to what is aimed at.

    A batch of duration b between pauses of s uses b / (b + s); raised step by step, because the
    pages that come may be dearer, and cut as far as needed.

    Args:
        pages: the present batch size.
        share: of one CPU that ksmd used with it, 0 to 1.
        aim: of one CPU that it should use, below 1.
    """
    share = min(max(share, 1e-6), 0.99)
    factor = (aim / (1 - aim)) / (share / (1 - share))
    return round(max(LEAST_PAGES, min(MOST_PAGES, pages * min(MOST_STEP, factor))))
