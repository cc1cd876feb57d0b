"""Figures that were measured once, beside their targets, as Markdown."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from benchmarks.controller.audit import Request


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a table.

    Attributes:
        what: what was measured.
        value: how much; None where it never came.
        unit: of value and target.
        most: the target, which is met by this much or less; None for none.
    """

    what: str
    value: float | None
    unit: str
    most: float | None = None

    def line(self) -> str:
        """The line in Markdown."""
        target = f"{_number(self.most)} {self.unit}" if self.most is not None else ""
        measured = f"{_number(self.value)} {self.unit}" if self.value is not None else "never"
        return f"| {self.what} | {measured} | {target} | {self._verdict()} |"

    def _verdict(self) -> str:
        if self.most is None:
            return ""
        if self.value is None:
            return "**missed**"
        if self.value <= self.most:
            return "met"
        times = f", {self.value / self.most:.2g} times as much" if self.most else ""
        return f"**missed**{times}"


def table(title: str, figures: Iterable[Figure]) -> str:
    """Return a Markdown table of figures, with the load average beside the title."""
    lines = [
        f"### {title}",
        f"Load average of the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs.",
        "",
        "| what | measured | target | |",
        "|---|---|---|---|",
        *(figure.line() for figure in figures),
    ]
    return "\n".join([*lines, ""])


def requests(title: str, asked: Sequence[Request], seconds: float) -> str:
    """Return a Markdown table of a user's requests: how many of each kind in a second."""
    lines = [f"### {title}", "", "| verb | resource | number | per second | refused |"]
    lines.append("|---|---|---|---|---|")
    counts = Counter((one.verb, one.resource) for one in asked)
    refused = Counter((one.verb, one.resource) for one in asked if one.code >= 400)  # noqa: PLR2004 - HTTP
    for (verb, resource), count in counts.most_common():
        bad = refused[verb, resource] or ""
        lines.append(f"| {verb} | {resource} | {count:,} | {count / seconds:.2f} | {bad} |")
    return "\n".join([*lines, ""])


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.2f}"  # noqa: PLR2004 - digits
