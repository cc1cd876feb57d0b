"""Cutting the ranges of a process into the steps of a release. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.mergeable import is_code
from ksm_operator.kernel.ranges import Range, common

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ksm_operator.kernel.smaps import Vma

WALK_BYTES: Final = 64 << 20
"""Address space covered in one step, however little of it is merged.

Before 6.19 the kernel walks every address of it, 1.1 ms for this much.
"""

MOST_WINDOWS: Final = 4096
"""Steps for the emptiness of one range: of 16 TiB they are longer."""

SMALLEST_BYTES: Final = 64 << 10
"""What is merged in a step that is not cut any further."""

STEPS_PER_VISIT: Final = 16
"""Each takes the kernel a moment for splitting the range, which its caller waits for."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """One step.

    Attributes:
        start: first address.
        length: bytes of address space.
        worst_bytes: what was merged there when it was looked at: most that it costs.
    """

    start: int
    length: int
    worst_bytes: int

    @property
    def where(self) -> Range:
        """Its addresses."""
        return Range(self.start, self.start + self.length)


def may_be_stepped(vma: Vma, *, keeps_flags: bool = False) -> bool:
    """True if a range may be given back before merging is switched off.

    Not one with flags that the step might drop (see `release`); nor code: that its mark is there
    tells, before 6.14, that merging is still on.
    """
    return _is_safe(vma, keeps_flags=keeps_flags) and not is_code(vma)


def _is_safe(vma: Vma, *, keeps_flags: bool) -> bool:
    return vma.is_mergeable and (keeps_flags or not vma.has_high_flags)


def parts_of(
    vmas: Iterable[Vma], ours: Sequence[Range], *, keeps_flags: bool = True
) -> tuple[Range, ...]:
    """What of `ours` is marked, and may be given back in steps (see `release`)."""
    safe = (vma for vma in vmas if _is_safe(vma, keeps_flags=keeps_flags))
    return common((Range(vma.start, vma.end) for vma in safe), ours)


def windows(where: Range) -> Iterator[Range]:
    """Cut a range into parts that the kernel can walk in one step.

    The cuts are where no huge page is cut.
    """
    length = WALK_BYTES
    while where.size > length * MOST_WINDOWS:
        length *= 2
    start = where.start
    while start < where.end:
        end = min((start // length + 1) * length, where.end)
        yield Range(start, end)
        start = end


def cut(window: Range, merged: Sequence[int], chunk_bytes: int, page_size: int) -> Iterator[Chunk]:
    """Cut such a part into steps of at most `chunk_bytes` of merged memory each.

    Args:
        window: addresses.
        merged: the numbers of its merged pages, in order.
        chunk_bytes: at least a page.
        page_size: of this machine.
    """
    most = max(1, chunk_bytes // page_size)
    start = window.start
    for first in range(0, len(merged) or 1, most):
        rest = merged[first + most : first + most + 1]
        end = window.start + rest[0] * page_size if rest else window.end
        yield Chunk(start, end - start, len(merged[first : first + most]) * page_size)
        start = end


def goes_with(lot: Sequence[Chunk], chunk: Chunk, chunk_bytes: int) -> bool:
    """Whether a step can be taken in the same visit as these, which the process waits for."""
    worst_bytes = sum(each.worst_bytes for each in lot) + chunk.worst_bytes
    length = sum(each.length for each in lot) + chunk.length
    return worst_bytes <= chunk_bytes and length <= WALK_BYTES and len(lot) < STEPS_PER_VISIT


def is_full(lot: Sequence[Chunk], chunk_bytes: int) -> bool:
    """Whether nothing goes with these any more."""
    return not goes_with(lot, Chunk(0, 1, 1), chunk_bytes)
