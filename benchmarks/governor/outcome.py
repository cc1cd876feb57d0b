"""What the samples of a run amount to. Pure."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

FINAL_SHARE: Final = 0.1
"""Of a run, at its end, whose mean is the final saving: a load that changes has no last value."""
REACHED_SHARE: Final = 0.9
LEAST_SECONDS: Final = 1e-9
SAME: Final = 0.03
"""Two savings that differ by no more than this are the same: as much as runs of one algorithm with
one load differ by."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What was measured at a moment.

    Attributes:
        at: seconds since the load began.
        saved: bytes that merging gives back.
        net: the same less ksmd's own records; negative where these are all there is.
        ksmd: CPU seconds of ksmd since the load began.
        breaks: merged pages that were written to since then.
        huge: bytes in huge pages, of the containers that ask for them.
    """

    at: float
    saved: int
    net: int
    ksmd: float
    breaks: int
    huge: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run.

    Attributes:
        samples: in the order of time, two at least.
        steering: CPU seconds of the algorithm's own program here, which are not counted.
        cost: CPU seconds of one break.
    """

    samples: Sequence[Sample]
    steering: float = 0.0
    cost: float = 0.0

    @property
    def saved(self) -> float:
        """Byte-seconds kept free."""
        return integral(self.samples, lambda one: one.saved)

    @property
    def net(self) -> float:
        """Byte-seconds kept free, less what ksmd's records took meanwhile."""
        return integral(self.samples, lambda one: one.net)

    @property
    def ksmd(self) -> float:
        """CPU seconds of ksmd."""
        return self.samples[-1].ksmd

    @property
    def copying(self) -> float:
        """CPU seconds of the programs for copies of merged pages."""
        return self.cost * self.samples[-1].breaks

    @property
    def cpu(self) -> float:
        """CPU seconds of both."""
        return self.ksmd + self.copying

    @property
    def cpu_share(self) -> float:
        """The same as a share of one CPU."""
        return self.cpu / self.samples[-1].at

    @property
    def late(self) -> float:
        """Net bytes kept free in the second half, as a mean: the start does not matter to it."""
        late = self._second_half
        return integral(late, lambda one: one.net) / max(late[-1].at - late[0].at, LEAST_SECONDS)

    @property
    def late_cpu_share(self) -> float:
        """The same in the second half alone: what goes on when the start is over."""
        first, *_, last = self._second_half
        cpu = last.ksmd - first.ksmd + self.cost * (last.breaks - first.breaks)
        return cpu / max(last.at - first.at, LEAST_SECONDS)

    @property
    def _second_half(self) -> Sequence[Sample]:
        last = self.samples[-1].at
        found = [one for one in self.samples if one.at >= last / 2]
        return found if len(found) > 1 else self.samples[-2:]

    @property
    def worth(self) -> float:
        """Net byte-seconds kept free for each CPU second; 0 where nothing was."""
        return ratio(self.net, self.cpu) if self.net > 0 else 0.0

    @property
    def final(self) -> float:
        """Bytes that are given back at the end."""
        last = self.samples[-1].at
        tail = [one.saved for one in self.samples if one.at >= last * (1 - FINAL_SHARE)]
        return sum(tail) / len(tail)

    @property
    def huge(self) -> tuple[int, int]:
        """Bytes in huge pages: the most at any time, and at the end."""
        return max(one.huge for one in self.samples), self.samples[-1].huge

    def beats(self, other: Outcome, least_ratio: float) -> bool:
        """Whether it has so many times the net saving for a CPU second, and no less of it later.

        How soon something was saved is part of the first. Of the second it would make a matter of
        how long a run is.
        """
        return (
            ratio(self.worth, other.worth) >= least_ratio
            and ratio(self.late, other.late) >= 1 - SAME
        )

    def reached(self, best: float) -> float | None:
        """Return after how many seconds nine tenths of a saving were there; None for never."""
        if best <= 0:
            return None
        found = (one.at for one in self.samples if one.saved >= REACHED_SHARE * best)
        return next(found, None)


def integral(samples: Iterable[Sample], what: Callable[[Sample], float]) -> float:
    """Return the area below the line through the samples."""
    return sum(
        (after.at - before.at) * (what(before) + what(after)) / 2
        for before, after in itertools.pairwise(samples)
    )


def ratio(ours: float, theirs: float) -> float:
    """Return how many times as much; not a number where neither is anything."""
    if theirs > 0:
        return ours / theirs
    return math.inf if ours > 0 else math.nan


def best_final(outcomes: Iterable[Outcome]) -> float:
    """Return the largest saving at the end of any run, in bytes."""
    return max(one.final for one in outcomes)
