"""Page frames: which ones a process maps, and what the node's files say of each.

/proc/PID/pagemap, /proc/kpageflags, /proc/kpagecgroup and /proc/kpagecount, as described in
Documentation/admin-guide/mm/pagemap.rst. All of it may have changed when it has been read.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import sys
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.errors import KernelError, Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import ExitStack
    from pathlib import Path

FRAME: Final = (1 << 55) - 1
_ANONYMOUS: Final = re.compile(rb"[\x80-\x9f]+")
"""Bit 63 present, 62 swapped, 61 file or shared."""

# include/uapi/linux/kernel-page-flags.h and include/linux/kernel-page-flags.h
KPF_DIRTY: Final = 1 << 4
KPF_ANON: Final = 1 << 12
KPF_COMPOUND: Final = 1 << 15 | 1 << 16
KPF_KSM: Final = 1 << 21
KPF_ZERO_PAGE: Final = 1 << 24
KPF_ANON_EXCLUSIVE: Final = 1 << 34
"""KPF_MAPPEDTODISK, the same bit of an anonymous page (include/linux/page-flags.h, Linux 5.19)."""

BLOCK_PAGES: Final = 1 << 14
"""Pages of one process looked at in one go."""

GAP_FRAMES: Final = 8
"""Frames read for nothing rather than by a call of their own: 0.16 us each against 1.2 us."""

HASH: Final = 2654435761
HASH_BITS: Final = 32


@dataclass(frozen=True, slots=True)
class MergedMark:
    """How a merged page is told from others by its word of /proc/kpageflags.

    Attributes:
        mask: bits that are looked at.
        value: what they are on a merged page.
        is_sure: no other page looks like that.
    """

    mask: int
    value: int
    is_sure: bool

    def is_on(self, word: int) -> bool:
        """Whether a page with this word is merged."""
        return word & self.mask == self.value


OWN_FLAG: Final = MergedMark(KPF_KSM, KPF_KSM, is_sure=True)

OTHER_MARKS: Final = MergedMark(
    KPF_ANON | KPF_KSM | KPF_DIRTY | KPF_COMPOUND | KPF_ANON_EXCLUSIVE,
    KPF_ANON | KPF_KSM | KPF_DIRTY,
    is_sure=False,
)
"""For kernels that give KPF_KSM to every anonymous page (seen on 6.12).

A page that ksmd merges is made dirty, is no longer exclusive and is never part of a larger one
(try_to_merge_one_page, write_protect_page, mm/ksm.c). Other anonymous pages are dirty in their page
table entries only, unless they were swapped out and in again and fork shares them.
"""


class PageFlags:
    """/proc/kpageflags, and how this kernel marks merged pages in it.

    Attributes:
        mark: tried on a page that nobody can have merged yet.
    """

    def __init__(self, files: ExitStack, proc: Path) -> None:
        """Open it, to be closed with `files`.

        Raises:
            KernelError, Unsupported: see `open_node_file`.
        """
        self._fd = open_node_file("kpageflags", files, proc)
        self.mark = OTHER_MARKS if OWN_FLAG.is_on(self._of_a_new_page(proc)) else OWN_FLAG

    def _of_a_new_page(self, proc: Path) -> int:
        """The flags of a page that this process has just written; 0 if its frame is not told."""
        with mmap.mmap(-1, 1, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as page:
            page[0] = 1
            view = ctypes.c_char.from_buffer(page)
            address = ctypes.addressof(view)
            del view  # the page cannot be unmapped while somebody looks at it
            try:
                with (proc / "self/pagemap").open("rb", buffering=0) as pagemap:
                    entry = os.pread(pagemap.fileno(), 8, address // mmap.PAGESIZE * 8)
            except OSError:
                return 0
            return self.words([int.from_bytes(entry, "little") & FRAME])[0]

    def words(self, frames: Sequence[int]) -> array[int]:
        """The flags of these frames; see `read_words`."""
        return read_words(self._fd, frames)

    def merged(self, frames: Sequence[int]) -> list[int]:
        """Those of these frames, in order, that are merged pages."""
        words = zip(frames, self.words(frames), strict=True)
        return [frame for frame, word in words if self.mark.is_on(word)]


def sample(frames: Iterable[int], every: int) -> list[int]:
    """Those frames that are in the sample, whoever maps them; in order, repeated as often."""
    if every == 1:
        return sorted(frames)
    # Neighbouring frames are alike in their low bits, so the choice is by a hash of all of them.
    limit, mask = (1 << HASH_BITS) // every, (1 << HASH_BITS) - 1
    return sorted(frame for frame in frames if frame * HASH & mask < limit)


def anonymous_runs(data: bytes) -> list[tuple[int, int]]:
    """First and end of the runs of private anonymous memory that is present.

    Args:
        data: entries of /proc/PID/pagemap as they were read.
    """
    if data.count(0) == len(data):
        return []
    # The topmost byte of an entry has all its flags: a search in those bytes takes no loop of ours.
    flags = data[7::8] if sys.byteorder == "little" else data[::8]
    return [found.span() for found in _ANONYMOUS.finditer(flags)]


def anonymous_frames(data: bytes) -> list[int]:
    """Frames of private anonymous memory that is present; see `anonymous_runs`."""
    return [
        entry & FRAME
        for first, end in anonymous_runs(data)
        for entry in array("Q", data[first * 8 : end * 8])
    ]


def runs_of(frames: Sequence[int], gap: int) -> list[tuple[int, int]]:
    """First and last of the runs of sorted numbers, across gaps of at most `gap`."""
    runs: list[tuple[int, int]] = []
    for frame in frames:
        if runs and frame - runs[-1][1] <= gap:
            runs[-1] = (runs[-1][0], frame)
        else:
            runs.append((frame, frame))
    return runs


def read_words(fd: int, frames: Sequence[int]) -> array[int]:
    """The 64-bit word of each of these frames, in order, from one of the node's files.

    A frame beyond the end of memory, or one that cannot be read, has 0.
    """
    words = array("Q")
    index = 0
    for first, last in runs_of(frames, GAP_FRAMES):
        try:
            data = os.pread(fd, (last - first + 1) * 8, first * 8)
        except OSError:
            data = b""
        block = array("Q", data[: len(data) // 8 * 8])
        while index < len(frames) and frames[index] <= last:
            at = frames[index] - first
            words.append(block[at] if at < len(block) else 0)
            index += 1
    return words


def open_node_file(name: str, files: ExitStack, proc: Path) -> int:
    """One of the node's files by frame, `kpageflags` and its like, closed with `files`.

    Raises:
        KernelError: no right to read it.
        Unsupported: this kernel does not have it.
    """
    try:
        fd = os.open(proc / name, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise Unsupported(
            f"this kernel does not tell who pays: it has no {proc / name} "
            "(CONFIG_PROC_PAGE_MONITOR and CONFIG_MEMCG provide it)"
        ) from error
    except OSError as error:
        raise KernelError(
            f"{proc / name} cannot be read ({error.strerror}): root on the node is needed"
        ) from error
    files.callback(os.close, fd)
    return fd
