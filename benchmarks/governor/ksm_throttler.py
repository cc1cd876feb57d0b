"""What the ksm-throttler of Kata Containers does. Pure.

Facts: `ksm.go` and `throttler.go` of kata-containers/ksm-throttler, mode `auto`. Each new container
starts the fastest of three stages; then it slows down stage by stage, and ends with what ksmd's
files held before. How many pages a batch has follows from the node's anonymous memory at the
moment that a stage begins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from benchmarks.governor.seen import Seen, Writes


@dataclass(frozen=True, slots=True)
class Stage:
    """How fast, and for how long.

    Attributes:
        share: one anonymous page in so many makes a batch.
        sleep: milliseconds between batches.
        seconds: until the next stage.
    """

    share: int
    sleep: int
    seconds: float


STAGES: Final = (Stage(10, 1, 30.0), Stage(100, 10, 120.0), Stage(500, 100, 120.0))
"""Aggressive, standard, slow."""


@dataclass(frozen=True, slots=True)
class Throttler:
    """What it remembers.

    Attributes:
        initial: what to write after the last stage.
        stage: the present one; None before the first and after the last.
        until: when it ends.
        kicks: containers that it has been told of.
    """

    initial: Writes
    stage: int | None = None
    until: float = math.inf
    kicks: int = 0


def step(state: Throttler, seen: Seen) -> tuple[Throttler, Writes]:
    """Return what it remembers and what it writes at a moment."""
    if seen.came > state.kicks:
        return _enter(replace(state, kicks=seen.came), 0, seen)
    if state.stage is None or seen.at < state.until:
        return state, ()
    if state.stage + 1 < len(STAGES):
        return _enter(state, state.stage + 1, seen)
    return replace(state, stage=None, until=math.inf), state.initial


def _enter(state: Throttler, number: int, seen: Seen) -> tuple[Throttler, Writes]:
    stage = STAGES[number]
    pages = seen.anonymous // seen.page_size // stage.share
    writes = (("run", 0), ("pages_to_scan", pages), ("sleep_millisecs", stage.sleep), ("run", 1))
    return replace(state, stage=number, until=seen.at + stage.seconds), writes
