"""The CPU time that ksmd may use, and how large its batches may be so that it is held. Pure.

ksmd asks whether it may go on between two batches only, so a batch that was begun is finished
whatever it costs, and what it took too much is waited for afterwards. Over any ten seconds ksmd
uses at most the limit, the unused time that was kept, what it takes until somebody looks, and one
batch: with the shares below that is within a tenth of the limit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

CREDIT_SECONDS: Final = 0.1
"""How much unused budget is kept: a tenth of a second's worth."""
TICK_SHARE: Final = 0.5
"""Seconds between two looks at the budget, for each CPU of the limit."""
BATCH_SHARE: Final = 0.25
"""CPU seconds by which one batch may overdraw the budget, for each CPU of the limit."""
MOST_LOOK: Final = 60.0
"""CPU seconds that one look adds to what was used at most. A batch of any length is paid for in
full, because there are many looks while it lasts. More than that between two of them is a machine
that stood still with ksmd on its CPU and had its clocks set forward, or a CPU time that is wrong:
neither may keep ksmd from its work for hours."""
DEAREST: Final = 13.5e-6
"""CPU seconds that a page takes at most where there are no holes: 37 times the least."""
FORGOTTEN_SECONDS: Final = 300.0
"""In which half of what a page cost beyond that is forgotten. Scans pass the same holes again."""


@dataclass(frozen=True, slots=True)
class Budget:
    """CPU time that ksmd may use.

    Attributes:
        at: when it was reckoned, seconds on a clock that only moves forward.
        cpu: CPU seconds of ksmd until then.
        left: CPU seconds that may be used at once; negative while overdrawn.
    """

    at: float
    cpu: float
    left: float = 0.0

    def reckon(self, limit: float, at: float, cpu: float) -> Budget:
        """Return the budget at a later moment, with the limit in CPUs.

        A CPU time that could not be read is 0; it is no time that was given back.
        """
        used = min(MOST_LOOK, max(0.0, cpu - self.cpu))
        left = self.left + limit * (at - self.at) - used
        return Budget(at, max(cpu, self.cpu), min(limit * CREDIT_SECONDS, left))


def dearest(known: float, batch: int, limit: float, left: float) -> float:
    """Return the CPU seconds that a page is to be taken to cost at most.

    Args:
        known: what it was taken to cost.
        batch: pages of the batches that were begun last; 0 if that is not known.
        limit: in CPUs.
        left: of the budget, CPU seconds. If it is overdrawn by more than a look and a batch may
            cost, the batch took what is beyond the look, and what was earned meanwhile.
    """
    if not batch or limit >= 1 or left >= -(TICK_SHARE + BATCH_SHARE) * limit:
        return known
    return max(known, (-left - TICK_SHARE * limit) / ((1 - limit) * batch))


def forgotten(known: float, seconds: float) -> float:
    """Return what a page is taken to cost at most after so many seconds without a surprise."""
    return DEAREST + (known - DEAREST) * math.exp2(-seconds / FORGOTTEN_SECONDS)


def largest(limit: float, cost: float) -> float:
    """Return the pages of a batch that overdraws the budget by no more than it may.

    Args:
        limit: in CPUs; from one on nothing can be overdrawn.
        cost: CPU seconds of a page at most.
    """
    return BATCH_SHARE * limit / ((1 - limit) * cost) if limit < 1 else math.inf


def divide(pages: int, sleep: int, most: float, shortest: int = 1) -> tuple[int, int]:
    """Return batches and pauses that go over memory as fast, or a little slower, in smaller steps.

    Args:
        pages: of a batch.
        sleep: milliseconds between two.
        most: pages of a batch.
        shortest: milliseconds that a pause may be cut to.
    """
    parts = max(1, math.ceil(pages / max(1.0, most)))
    return max(1, pages // parts), max(min(shortest, sleep), -(-sleep // parts))
