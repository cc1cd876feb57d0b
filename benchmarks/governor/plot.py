"""Lines over time as SVG, without a library. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

COLOURS: Final = (*("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7f7f7f"),)
"""Told apart by the colour-blind as well (Okabe and Ito)."""
STRESSED: Final = "#000000"
WIDTH: Final = 900
PANEL: Final = 260
LEFT: Final = 80
RIGHT: Final = 20
TOP: Final = 44
GAP: Final = 56
LEGEND_LINE: Final = 18
LEGEND_COLUMNS: Final = 3
TICKS: Final = 5
LEAST: Final = 1e-9
"""What an axis can tell from nothing."""
FONT: Final = "font-family='sans-serif' font-size='12'"

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Panel:
    """One coordinate system.

    Attributes:
        title: of its vertical axis.
        lines: by name, points of seconds and a value that is not negative.
    """

    title: str
    lines: Mapping[str, Sequence[Point]]


def ticks(largest: float) -> list[float]:
    """Return round numbers from 0 on, the last at or above the largest value."""
    if not largest >= LEAST:
        return [0.0, 1.0]
    rough = largest / TICKS
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * (1 - 1e-9))
    count = math.ceil(largest / step - 1e-9)
    return [step * number for number in range(count + 1)]


def svg(title: str, panels: Sequence[Panel], stressed: str = "") -> str:
    """Return a picture: the panels one below the other, with one legend for all.

    Args:
        title: of all.
        panels: from top to bottom.
        stressed: the line that it is about.
    """
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}
    if stressed in colours:
        colours[stressed] = STRESSED
    legend = LEGEND_LINE * (1 + -(-len(names) // LEGEND_COLUMNS))
    height = TOP + legend + len(panels) * (PANEL + GAP)
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' {FONT}>",
        f"<rect width='{WIDTH}' height='{height}' fill='white'/>",
        f"<text x='{LEFT}' y='24' font-size='15'>{escape(title)}</text>",
        *_legend(colours),
    ]
    for index, panel in enumerate(panels):
        parts += _panel(panel, TOP + legend + index * (PANEL + GAP), colours)
    return "\n".join([*parts, "</svg>", ""])


def _legend(colours: Mapping[str, str]) -> Iterator[str]:
    column = (WIDTH - LEFT - RIGHT) / LEGEND_COLUMNS
    for index, (name, colour) in enumerate(colours.items()):
        x = LEFT + index % LEGEND_COLUMNS * column
        y = TOP + index // LEGEND_COLUMNS * LEGEND_LINE
        yield f"<rect x='{x:.1f}' y='{y - 5}' width='18' height='3' fill='{colour}'/>"
        yield f"<text x='{x + 24:.1f}' y='{y}'>{escape(name)}</text>"


def _panel(panel: Panel, top: int, colours: Mapping[str, str]) -> Iterator[str]:
    points = [point for line in panel.lines.values() for point in line]
    last = max((x for x, _ in points), default=0.0)
    across = ticks(last)
    # Time ends where it was measured, and values at a round number.
    last = max(last, LEAST)
    up = ticks(max((y for _, y in points), default=0.0))
    wide, high = WIDTH - LEFT - RIGHT, PANEL

    def place(x: float, y: float) -> Point:
        return LEFT + wide * x / last, top + high * (1 - y / up[-1])

    yield f"<text x='{LEFT}' y='{top - 8}'>{escape(panel.title)}</text>"
    for value in up:
        _, y = place(0, value)
        yield f"<path d='M{LEFT} {y:.1f}H{LEFT + wide}' stroke='#ddd' fill='none'/>"
        yield f"<text x='{LEFT - 6}' y='{y + 4:.1f}' text-anchor='end'>{value:g}</text>"
    for value in (value for value in across if value <= last):
        x, _ = place(value, 0)
        yield f"<text x='{x:.1f}' y='{top + high + 16}' text-anchor='middle'>{value:g} s</text>"
    for name, line in panel.lines.items():
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in line))
        yield (
            f"<polyline points='{path}' fill='none' stroke='{colours[name]}' "
            f"stroke-width='{3 if colours[name] == STRESSED else 2}'>"
            f"<title>{escape(name)}</title></polyline>"
        )
