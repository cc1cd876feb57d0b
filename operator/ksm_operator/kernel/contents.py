"""Reading what private anonymous memory holds, page by page: all that ksmd could ever merge."""

from __future__ import annotations

from array import array
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.procfs import Process, open_memory_file, page_size, read_places

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from ksm_operator.kernel.smaps import Vma

NEVER_MERGED: Final = frozenset({"sh", "ms", "ht", "io", "pf", "mm", "de", "dp"})
"""VmFlags that ksmd passes over: shared, huge TLB and device memory (mm/ksm.c)."""

# Documentation/admin-guide/mm/pagemap.rst
PRESENT: Final = 1 << 63
FILE_OR_SHARED: Final = 1 << 61
MAPPED_ONCE: Final = 1 << 56

CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Block:
    """Neighbouring pages of a process.

    Attributes:
        vma: the range that they are of.
        entries: of /proc/PID/pagemap, one a page.
        data: what they held when they were read, each page on its own.
    """

    vma: Vma
    entries: array[int]
    data: bytes


def can_be_read(vma: Vma) -> bool:
    """True for a range that holds private memory which ksmd could merge."""
    return vma.anonymous_bytes > 0 and not vma.flags & NEVER_MERGED


def read_blocks(process: Process, vmas: Iterable[Vma], proc: Path) -> Iterator[Block]:
    """The private anonymous pages of these ranges that are present; the process runs on meanwhile.

    Raises:
        ProcessGone: it exited.
        KernelError: no right to read it.
    """
    size = page_size()
    with ExitStack() as files:
        pagemap = open_memory_file(process, "pagemap", files, proc)
        memory = open_memory_file(process, "mem", files, proc)
        for vma in vmas:
            if not can_be_read(vma):
                continue
            for start in range(vma.start, vma.end, CHUNK * 64):
                length = min(vma.end - start, CHUNK * 64) // size
                place = (start // size * 8, length * 8)
                (told,) = read_places(process, pagemap, [place])
                entries = array("Q", told)
                wanted = (entry & PRESENT and not entry & FILE_OR_SHARED for entry in entries)
                for first, count in runs(map(bool, wanted), CHUNK // size):
                    place = (start + first * size, count * size)
                    (data,) = read_places(process, memory, [place])
                    if not data:
                        continue  # unmapped since
                    yield Block(vma, entries[first : first + len(data) // size], data)


def runs(entries: Iterable[bool], longest: int) -> Iterator[tuple[int, int]]:
    """Start and length of the runs of true entries, cut to a longest length."""
    start = end = 0
    for index, wanted in enumerate(entries):
        if wanted and end - start < longest and index == end:
            end += 1
            continue
        if end > start:
            yield start, end - start
        start, end = (index, index + 1) if wanted else (index + 1, index + 1)
    if end > start:
        yield start, end - start
