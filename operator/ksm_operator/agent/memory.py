"""How the agent's memory is kept small and still; a DaemonSet pays for it once per node."""

from __future__ import annotations

import ctypes
import gc
from typing import Final

M_MMAP_THRESHOLD: Final = -3
M_ARENA_MAX: Final = -8
"""Of malloc.h, mallopt(3)."""
LARGE_BYTES: Final = 128 << 10
"""glibc's own threshold at the start."""


def keep_one_heap() -> None:
    """Have threads share one heap, and large pieces given back to the kernel at once.

    Call it before the first thread is started. glibc gives each thread a heap, of which it gives
    back little, and raises the threshold for large pieces with every one that is freed. Nothing is
    done where the C library has no such settings.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)


def settle() -> None:
    """Have the garbage collector pass over what is there now, most of it what was imported.

    To go through that takes it 15 ms, as long as a runtime needs to turn into a container's
    program, and it happens at any moment.
    """
    gc.collect()
    gc.freeze()
