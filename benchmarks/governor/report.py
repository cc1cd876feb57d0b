"""The figures of a load as Markdown, and whether the targets are met. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from benchmarks.governor.outcome import Outcome, best_final, ratio

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

GIB: Final = 1 << 30
MIB: Final = 1 << 20
MOST_IDLE_SHARE: Final = 0.01
"""Of one CPU, where there is nothing to save."""
HEAD: Final = (
    "| algorithm | GiB s for a CPU s | ours to it | GiB s saved | ours to it | profit, GiB s "
    "| saved at the end | 90 % of the best after | ksmd | copy-on-write | of a CPU "
    "| huge pages kept |"
)


def table(title: str, outcomes: Mapping[str, Outcome], ours: str) -> str:
    """Return a table of all algorithms with one load.

    Args:
        title: of the load.
        outcomes: by the algorithms' titles.
        ours: which of them the others are compared with: "ours to it" is how many times as much
            ours has.
    """
    best = best_final(outcomes.values())
    lines = [f"### {title}", "", HEAD, "|---" * HEAD.count(" | ") + "|---|"]
    for name, one in outcomes.items():
        mine = outcomes.get(ours) if name != ours else None
        cells = (
            name,
            number(one.worth / GIB),
            times(ratio(mine.worth, one.worth)) if mine else "",
            number(one.saved / GIB),
            times(ratio(mine.saved, one.saved)) if mine else "",
            number(one.profit / GIB),
            f"{one.final / MIB:,.0f} MiB",
            _seconds(one.reached(best)),
            f"{one.ksmd:.2f} s",
            f"{one.copying:.2f} s",
            f"{100 * one.cpu_share:.1f} %",
            _huge(one),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def verdicts(
    outcomes: Mapping[str, Outcome], ours: str, *, least_ratio: float, profitable: bool
) -> Iterator[str]:
    """Say which targets are met, and each that is not.

    Args:
        outcomes: by the algorithms' titles.
        ours: the one that is judged.
        least_ratio: how many times the others' saving for a CPU second it shall have.
        profitable: whether there is anything to save; if not, it shall cost next to nothing.
    """
    mine = outcomes.get(ours)
    if mine is None:
        return
    if not profitable:
        yield _verdict(
            mine.cpu_share <= MOST_IDLE_SHARE,
            f"{100 * mine.cpu_share:.2g} % of a CPU, target at most {100 * MOST_IDLE_SHARE:g} %",
        )
        had, kept = mine.huge
        if had:
            huge = f"{kept / MIB:,.0f} of {had / MIB:,.0f} MiB in huge pages kept"
            yield _verdict(kept >= had, huge)
        else:
            yield "**not shown**: that huge pages are kept: this machine gave none."
        return
    for name, other in outcomes.items():
        if name == ours:
            continue
        worth, saved = ratio(mine.worth, other.worth), ratio(mine.saved, other.saved)
        yield _verdict(
            worth >= least_ratio and saved >= 1,
            f"against {name}: {times(worth)} for a CPU second, target {least_ratio:g} x; "
            f"{times(saved)} the saving, target 1 x",
        )


def _verdict(met: bool, what: str) -> str:  # noqa: FBT001 - the one thing it is about
    return f"{'met' if met else '**MISSED**'}: {what}."


def number(value: float) -> str:
    """Return a number with about three digits."""
    if not math.isfinite(value):
        return "no CPU"
    size = abs(value)
    return f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 2}f}"  # noqa: PLR2004 - digits


def times(value: float) -> str:
    """Return a ratio; what we lose is bold."""
    if not math.isfinite(value):
        return "all"
    text = f"{value:,.2f} x"
    return text if value >= 1 else f"**{text}**"


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.0f} s"


def _huge(one: Outcome) -> str:
    had, kept = one.huge
    return f"{kept / MIB:,.0f} of {had / MIB:,.0f} MiB" if had else ""
