"""Ranges of addresses, reckoned with as sets. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

UNIT: Final = 4096
"""Every page size is a multiple of it."""


@dataclass(frozen=True, slots=True, order=True)
class Range:
    """Addresses of a process, page-aligned.

    Attributes:
        start: first address.
        end: first address after it.
    """

    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes of address space."""
        return self.end - self.start


def joined(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The same addresses in as few ranges as possible, in order."""
    result: list[Range] = []
    for each in sorted(ranges):
        if result and each.start <= result[-1].end:
            result[-1] = Range(result[-1].start, max(result[-1].end, each.end))
        elif each.size > 0:
            result.append(each)
    return tuple(result)


def common(some: Iterable[Range], others: Iterable[Range]) -> tuple[Range, ...]:
    """Addresses that are in both."""
    first, second = joined(some), joined(others)
    result: list[Range] = []
    i = j = 0
    while i < len(first) and j < len(second):
        start = max(first[i].start, second[j].start)
        end = min(first[i].end, second[j].end)
        if start < end:
            result.append(Range(start, end))
        if first[i].end <= second[j].end:
            i += 1
        else:
            j += 1
    return tuple(result)


def without(some: Iterable[Range], others: Iterable[Range]) -> tuple[Range, ...]:
    """Addresses of the first that are not in the second."""
    removed = joined(others)
    result: list[Range] = []
    first = 0
    for each in joined(some):
        start = each.start
        while first < len(removed) and removed[first].end <= start:
            first += 1
        for hole in removed[first:]:
            if hole.start >= each.end:
                break
            if hole.start > start:
                result.append(Range(start, hole.start))
            start = hole.end
        if start < each.end:
            result.append(Range(start, each.end))
    return tuple(result)


def to_numbers(ranges: Iterable[Range]) -> list[int]:
    """Ranges in order as short numbers: the gap before each and its length, in units of 4 KiB."""
    numbers: list[int] = []
    end = 0
    for each in ranges:
        numbers += ((each.start - end) // UNIT, each.size // UNIT)
        end = each.end
    return numbers


def from_numbers(numbers: Iterable[int]) -> tuple[Range, ...]:
    """Read what `to_numbers` gave.

    Raises:
        ValueError: not of that form.
    """
    ranges: list[Range] = []
    end = 0
    rest = iter(numbers)
    for gap in rest:
        length = next(rest, 0)
        if gap < 0 or length <= 0:
            raise ValueError(f"no range: {gap}, {length}")
        ranges.append(Range(end + gap * UNIT, end + (gap + length) * UNIT))
        end = ranges[-1].end
    return tuple(ranges)
