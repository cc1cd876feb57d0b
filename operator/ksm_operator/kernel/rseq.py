"""Restartable sequences: code that the kernel aborts when its thread is moved away; rseq(2).

Source: struct rseq and struct rseq_cs in include/uapi/linux/rseq.h.
"""

from __future__ import annotations

from typing import Final

from ksm_operator.kernel import ptrace
from ksm_operator.kernel.remote_memory import read_memory

SECTION_OFFSET: Final = 8
SECTION_BYTES: Final = 32


def in_section(tid: int, ip: int) -> bool:
    """True if a stopped thread with this program counter is in such a sequence.

    Raises:
        OSError: it is gone.
    """
    area = ptrace.rseq_address(tid)
    if area is None:
        return False
    pointer = int.from_bytes(read_memory(tid, area + SECTION_OFFSET, 8), "little")
    if pointer == 0:
        return False
    section = read_memory(tid, pointer, SECTION_BYTES)
    if len(section) < SECTION_BYTES:
        return True
    start = int.from_bytes(section[8:16], "little")
    length = int.from_bytes(section[16:24], "little")
    return start <= ip < start + length
