"""Restartable sequences: code that the kernel aborts when its thread is moved away; rseq(2).

Source: struct rseq and struct rseq_cs in include/uapi/linux/rseq.h.
"""

from __future__ import annotations

from typing import Final

from ksm_operator.kernel import ptrace
from ksm_operator.kernel.remote_memory import read_memory

POINTER_OFFSET: Final = 8
POINTER_BYTES: Final = 8
SECTION_BYTES: Final = 32


def in_section(tid: int, ip: int) -> bool:
    """True if a stopped thread with this program counter is in such a sequence.

    Raises:
        OSError: it is gone.
    """
    piece = pointer_piece(tid)
    return is_in(tid, ip, read_memory(tid, *piece))


def pointer_piece(tid: int) -> tuple[int, int]:
    """Where a stopped thread keeps the address of the sequence it is in: address and length.

    Nothing, of length 0, for a thread without such sequences.

    Raises:
        OSError: it is gone.
    """
    area = ptrace.rseq_address(tid)
    return (0, 0) if area is None else (area + POINTER_OFFSET, POINTER_BYTES)


def is_in(tid: int, ip: int, pointer: bytes) -> bool:
    """The same as `in_section`, for who has read what is at `pointer_piece`."""
    address = int.from_bytes(pointer, "little")
    if address == 0:
        return False
    section = read_memory(tid, address, SECTION_BYTES)
    if len(section) < SECTION_BYTES:
        return True
    start = int.from_bytes(section[8:16], "little")
    length = int.from_bytes(section[16:24], "little")
    return start <= ip < start + length
