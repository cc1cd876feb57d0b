"""The figures of the loads as Markdown, and whether the targets are met. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks.governor.outcome import SAME, Outcome, best_final, ratio

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

GIB: Final = 1 << 30
MIB: Final = 1 << 20
MOST_IDLE_SHARE: Final = 0.01
"""Of one CPU, where there is nothing to save."""
HEAD: Final = (
    "| algorithm | net GiB s for a CPU s | ours to it | net GiB s saved | ours to it "
    "| net MiB in the second half | ours to it | 90 % of the best after | ksmd | copy-on-write "
    "| of a CPU | huge pages lost |"
)


@dataclass(frozen=True, slots=True)
class Played:
    """A load with all algorithms.

    Attributes:
        title: of the load.
        outcomes: by the algorithms' titles.
        ours: the one that is judged.
        least_ratio: how many times the others' net saving for a CPU second it shall have.
        profitable: whether there is anything to save; if not, it shall cost next to nothing.
    """

    title: str
    outcomes: Mapping[str, Outcome]
    ours: str
    least_ratio: float = 1.0
    profitable: bool = True

    @property
    def mine(self) -> Outcome | None:
        """What ours came to, if it was run."""
        return self.outcomes.get(self.ours)

    @property
    def others(self) -> dict[str, Outcome]:
        """What the others came to."""
        return {name: one for name, one in self.outcomes.items() if name != self.ours}


def table(played: Played) -> str:
    """Return a table of all algorithms with one load.

    "Ours to it" is how many times as much ours has.
    """
    best = best_final(played.outcomes.values())
    lines = [f"### {played.title}", "", HEAD, "|---" * (HEAD.count("|") - 1) + "|"]
    for name, one in played.outcomes.items():
        mine = played.mine if name != played.ours else None
        cells = (
            name,
            number(one.worth / GIB),
            times(ratio(mine.worth, one.worth)) if mine else "",
            number(one.net / GIB),
            times(ratio(mine.net, one.net)) if mine else "",
            number(one.late / MIB),
            times(ratio(mine.late, one.late)) if mine else "",
            _seconds(one.reached(best)),
            f"{one.ksmd:.2f} s",
            f"{one.copying:.2f} s",
            f"{100 * one.cpu_share:.1f} %",
            _huge(one),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def places(loads: Sequence[Played]) -> str:
    """Return a table of all loads: ours against each of the others.

    The figures of a cell are how many times as much ours has of the net saving for a CPU second,
    of the net saving, and of the net saving in the second half.
    """
    names = list(dict.fromkeys(name for one in loads for name in one.others))
    lines = [
        f"| load | our place | {' | '.join(names)} |",
        f"|---|---|{'---|' * len(names)}",
    ]
    for played in loads:
        mine = played.mine
        if mine is None:
            continue
        cells = [_against(mine, played.outcomes.get(name)) for name in names]
        place = 1 + sum(one.worth > mine.worth for one in played.others.values())
        where = f"{place} of {len(played.outcomes)}" if played.profitable else "nothing to save"
        lines.append(f"| {played.title} | {where} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _against(mine: Outcome, other: Outcome | None) -> str:
    if other is None:
        return ""
    pairs = ((mine.worth, other.worth), (mine.net, other.net), (mine.late, other.late))
    return "; ".join(times(ratio(ours, theirs)) for ours, theirs in pairs)


def targets(loads: Sequence[Played]) -> Iterator[str]:
    """Say which targets are met, and each that is not, with whom it was lost to."""
    for played in loads:
        if played.mine is None:
            continue
        if played.profitable:
            yield _best(played, played.mine)
        else:
            yield from _idle(played, played.mine)


def _best(played: Played, mine: Outcome) -> str:
    lost = [
        f"{name} ({_against(mine, other)})"
        for name, other in played.others.items()
        if not mine.beats(other, played.least_ratio)
    ]
    return _verdict(
        not lost,
        f"{played.title}: at least {played.least_ratio:g} x the net saving for a CPU second of each"
        f" other, and no less of it in the second half ({100 * SAME:g} % are no difference)"
        + (f"; not against {', '.join(lost)}" if lost else ""),
    )


def _idle(played: Played, mine: Outcome) -> Iterator[str]:
    spans = (("with its start", mine.cpu_share), ("the second half", mine.late_cpu_share))
    for when, share in spans:
        yield _verdict(
            share < MOST_IDLE_SHARE,
            f"{played.title}, {when}: {100 * share:.2g} % of a CPU, target below "
            f"{100 * MOST_IDLE_SHARE:g} %",
        )
    had, kept = mine.huge
    if had:
        huge = f"{kept / MIB:,.0f} of {had / MIB:,.0f} MiB in huge pages kept"
        yield _verdict(kept >= had, f"{played.title}: {huge}")
    else:
        yield f"- **not shown**: {played.title}: that huge pages are kept: this machine gave none."


def _verdict(met: bool, what: str) -> str:  # noqa: FBT001 - the one thing it is about
    return f"- {'met' if met else '**MISSED**'}: {what}."


def number(value: float) -> str:
    """Return a number with about three digits."""
    if not math.isfinite(value):
        return "no CPU"
    size = abs(value)
    return f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 2}f}"  # noqa: PLR2004 - digits


def times(value: float) -> str:
    """Return a ratio; what we lose is bold."""
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "all"
    text = f"{value:,.2f} x"
    return text if value >= 1 else f"**{text}**"


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.0f} s"


def _huge(one: Outcome) -> str:
    had, kept = one.huge
    return f"{(had - kept) / MIB:,.0f} of {had / MIB:,.0f} MiB" if had else ""
