"""Where memory below the stack pointer is certainly free.

The ABI gives everything below the red zone to signal handlers, but only on a stack: a thread whose
runtime switches stacks by itself (goroutines, fibers, coroutines) may have a heap object there, and
relies on signal handlers that run elsewhere. So a stack counts only if the kernel, or the C library
that made the thread, says that it is one.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ksm_operator.kernel.maps import Mappings

DESCRIPTOR_BYTES: Final = 4096
"""The thread descriptor of glibc takes 2.3 KiB, that of musl 0.2."""

MOST_ABOVE_DESCRIPTOR: Final = 16384
"""Both put the descriptor at the top of the block that holds the stack; what may follow it."""

WORD: Final = 8

_places: list[int] = []
"""Where in a descriptor such a pair was found before: looked at first, as the thread stands still
meanwhile."""


def is_own_stack(
    lowest: int,
    stack_pointer: int,
    mappings: Mappings,
    *,
    main_thread: bool,
    thread_pointer: int,
    descriptor: bytes,
) -> bool:
    """True if everything from `lowest` up to the stack pointer is this thread's own stack.

    Args:
        lowest: first address that is to be used.
        stack_pointer: where the thread's stack begins now.
        mappings: of the process.
        main_thread: the one whose stack the kernel made and names `[stack]`.
        thread_pointer: its %fs base.
        descriptor: memory at the thread pointer, as much of it as could be read.
    """
    mapping = mappings.at(stack_pointer)
    if mapping is None or lowest < mapping.start or mapping.rights[:2] != b"rw":
        return False
    if mapping.rights[3:] != b"p":
        return False
    if main_thread and mapping.name == b"[stack]":
        return True
    return (
        mapping.start <= thread_pointer < mapping.end
        and stack_pointer < thread_pointer
        and _holds_stack(descriptor, lowest, thread_pointer, mapping.end)
    )


def _holds_stack(descriptor: bytes, lowest: int, thread_pointer: int, end: int) -> bool:
    """True if a C library's thread descriptor names a block that these addresses lie in.

    Its first word is its own address (the ABI for thread-local storage; a thread of Go has none).
    Further on, glibc keeps `stackblock, stackblock_size` and musl `map_base, map_size`: their
    places differ between versions, but no other pair of neighbours spans from below the stack
    pointer to just above the descriptor.
    """
    words = struct.unpack_from(f"<{len(descriptor) // WORD}Q", descriptor)
    if not words or words[0] != thread_pointer:
        return False
    highest = min(end, thread_pointer + MOST_ABOVE_DESCRIPTOR)
    pairs = len(words) - 1
    known = [place for place in _places if place < pairs]
    for place in (*known, *range(pairs)):
        base, size = words[place], words[place + 1]
        if 0 < base <= lowest and thread_pointer < base + size <= highest:
            if place not in _places:
                _places.append(place)
            return True
    return False
