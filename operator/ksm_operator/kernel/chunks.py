"""Cutting the ranges of a process into the steps of a release. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.mergeable import is_code
from ksm_operator.kernel.ranges import Range, common

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ksm_operator.kernel.smaps import Vma

SPARSE_CHUNK_BYTES: Final = 256 << 20
"""Address space covered in one step where little of it is merged.

Before 6.19 the kernel walks every address of it, 3.8 ms per 256 MiB.
"""

SMALLEST_CHUNK_BYTES: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class Chunk:
    """One step.

    Attributes:
        start: first address.
        length: bytes of address space.
        worst_bytes: most memory that it can cost.
    """

    start: int
    length: int
    worst_bytes: int


def needs_step(vma: Vma, unlocated_bytes: int, *, keeps_flags: bool = False) -> bool:
    """True if a range must be given back before merging is switched off.

    Ranges without merged pages need no memory, but switching off walks all their addresses: large
    ones are taken in steps as well, unless they were never touched. Where something is merged and
    smaps does not say in which range (`unlocated_bytes`), it may be in any. A range with flags that
    the step might drop (see the module) takes none; nor does code: that its mark is there tells,
    before 6.14, that merging is still on.
    """
    large = vma.size > SPARSE_CHUNK_BYTES and vma.anonymous_bytes > 0
    merged = vma.ksm_bytes + unlocated_bytes > 0
    safe = keeps_flags or not vma.has_high_flags
    return vma.is_mergeable and safe and not is_code(vma) and (merged or large)


def parts_of(vmas: Iterable[Vma], ours: Sequence[Range]) -> Iterator[Vma]:
    """What of `ours` is marked: each part as a range with the figures of the one that it is of."""
    for vma in vmas:
        if vma.is_mergeable:
            for part in common([Range(vma.start, vma.end)], ours):
                yield replace(vma, start=part.start, end=part.end)


def chunks(vma: Vma, chunk_bytes: int, unlocated_bytes: int) -> list[Chunk]:
    """Cut a range into steps of about `chunk_bytes` merged memory each, page-aligned.

    What a step may cost is bounded by its length and by what the whole range has merged.
    """
    most = vma.ksm_bytes + unlocated_bytes
    density = min(1.0, most / vma.size)
    length = int(chunk_bytes / density) if density else SPARSE_CHUNK_BYTES
    length = aligned(min(length, SPARSE_CHUNK_BYTES))
    starts = range(vma.start, vma.end, length)
    steps = ((start, min(length, vma.end - start)) for start in starts)
    return [Chunk(start, step, min(step, most)) for start, step in steps]


def aligned(length: int) -> int:
    """Down to a multiple of the largest page size, and at least one of them."""
    return max(SMALLEST_CHUNK_BYTES, length // SMALLEST_CHUNK_BYTES * SMALLEST_CHUNK_BYTES)


def halved(chunk: Chunk) -> tuple[Chunk, Chunk] | None:
    """Two halves of a step that does not fit; None when it is as small as steps get."""
    if chunk.length < 2 * SMALLEST_CHUNK_BYTES:
        return None
    half = aligned(chunk.length // 2)
    rest = chunk.length - half
    return (
        Chunk(chunk.start, half, min(half, chunk.worst_bytes)),
        Chunk(chunk.start + half, rest, min(rest, chunk.worst_bytes)),
    )
