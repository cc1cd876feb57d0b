"""Long work in small steps, as a generator: whoever has other things to do takes them singly."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator

Result = TypeVar("Result")


def run(steps: Generator[object, None, Result]) -> Result:
    """All steps at once; returns what the work returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result
