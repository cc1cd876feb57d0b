"""Figures of repeated measurements, and the table that shows them."""

from __future__ import annotations

import os
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table.

    Attributes:
        what: what was measured.
        values: each measurement.
        unit: of every one of them.
    """

    what: str
    values: Sequence[float]
    unit: str

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    @property
    def p99(self) -> float:
        """The one that 99 % stay below or at; the largest where there are under a hundred."""
        ordered = sorted(self.values)
        return ordered[min(len(ordered) - 1, -(-99 * len(ordered) // 100) - 1)]


def table(title: str, rows: Iterable[Row]) -> str:
    """Return a Markdown table: median, p99, largest, and how often each was measured.

    The load average stands beside the title: what waits for a CPU has its share in each figure.
    """
    lines = [
        f"### {title}",
        f"Load average of the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs.",
        "",
        "| what | median | p99 | max | runs |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        numbers = " | ".join(
            f"{value:,.{_decimals(value)}f} {row.unit}"
            for value in (row.median, row.p99, max(row.values))
        )
        lines.append(f"| {row.what} | {numbers} | {len(row.values)} |")
    return "\n".join([*lines, ""])


def verdict(what: str, value: float, target: float, unit: str) -> str:
    """Say whether a target is met (at most this much), or by how much it is missed."""
    figures = f"{value:,.4g} {unit}, target at most {target:,.4g} {unit}"
    if value <= target:
        return f"met: {what}: {figures}."
    return f"MISSED: {what}: {figures}, {value / target:.2g} times as much."


def _decimals(value: float) -> int:
    return 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2  # noqa: PLR2004 - digits
