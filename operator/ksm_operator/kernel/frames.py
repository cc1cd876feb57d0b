"""Page frames: which ones a process maps, and what the node's files say of each.

/proc/PID/pagemap, /proc/kpageflags, /proc/kpagecgroup and /proc/kpagecount, as described in
Documentation/admin-guide/mm/pagemap.rst. All of it may have changed when it has been read.
"""

from __future__ import annotations

import os
from array import array
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.errors import KernelError, ProcessGone, Unsupported
from ksm_operator.kernel.procfs import Process, is_alive, live_thread

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import ExitStack
    from pathlib import Path

# Bit 63 present, 62 swapped, 61 file or shared.
PRESENT_ANONYMOUS: Final = 0b100
FRAME: Final = (1 << 55) - 1
KPF_KSM: Final = 1 << 21

BLOCK_PAGES: Final = 1 << 14
"""Pages of one process looked at in one go."""

GAP_FRAMES: Final = 8
"""Frames read for nothing rather than by a call of their own: 0.16 us each against 1.2 us."""

HASH: Final = 2654435761
HASH_BITS: Final = 32


def sample(frames: Iterable[int], every: int) -> list[int]:
    """Those frames that are in the sample, whoever maps them; in order, repeated as often."""
    if every == 1:
        return sorted(frames)
    # Neighbouring frames are alike in their low bits, so the choice is by a hash of all of them.
    limit, mask = (1 << HASH_BITS) // every, (1 << HASH_BITS) - 1
    return sorted(frame for frame in frames if frame * HASH & mask < limit)


def anonymous_frames(entries: Iterable[int]) -> list[int]:
    """Frames of private anonymous memory that is present, from entries of /proc/PID/pagemap."""
    return [entry & FRAME for entry in entries if entry >> 61 == PRESENT_ANONYMOUS]


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


def open_pagemap(process: Process, files: ExitStack, proc: Path) -> int:
    """/proc/PID/pagemap of this very process, closed with `files`.

    Raises:
        ProcessGone: it exited.
        KernelError: no right to read it.
    """
    # The leader of a process may have exited before it: its memory is seen through the others.
    tid = live_thread(process.pid, proc=proc)
    try:
        fd = os.open(
            proc / str(process.pid) / "task" / str(tid) / "pagemap", os.O_RDONLY | os.O_CLOEXEC
        )
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessGone(process.pid) from error
    except OSError as error:
        raise KernelError(
            f"/proc/{process.pid}/pagemap cannot be read ({error.strerror}): root is needed"
        ) from error
    files.callback(os.close, fd)
    if not is_alive(process, proc=proc):
        raise ProcessGone(process.pid)
    return fd


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
