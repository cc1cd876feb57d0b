"""The signal frame through which an aarch64 thread returns to its own state without us.

The kernel writes such a frame before it runs a signal handler, and rt_sigreturn(2) takes the whole
state of the thread back from it. The code that calls rt_sigreturn is in every process, in the vdso.

Sources: arch/arm64/kernel/signal.c (struct rt_sigframe, restore_sigframe()), struct sigcontext and
fpsimd_context in arch/arm64/include/uapi/asm/sigcontext.h, do_sigaltstack() in kernel/signal.c.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ksm_operator.kernel.aarch64 import Registers
    from ksm_operator.kernel.maps import Mappings

NOP: Final = b"\x1f\x20\x03\xd5"
RESTORER: Final = NOP + b"\x68\x11\x80\xd2\x01\x00\x00\xd4"  # mov x8, #139; svc #0
"""Debuggers want the nop there (arch/arm64/kernel/vdso/sigreturn.S), and so do we: a call of ours
that was interrupted makes the kernel go on one instruction earlier than it was told to."""

STACK_ALIGNMENT: Final = 16

SIGINFO_BYTES: Final = 128
MASK_BYTES: Final = 128 + 8  # room for 1024 signals, and up to the alignment of the next part

NO_SUCH_STACK: Final = 3
"""SS_ONSTACK and SS_DISABLE at once: the kernel refuses it and keeps the thread's alternate stack,
which ptrace does not show."""

FPSIMD_MAGIC: Final = 0x46508001
FPSIMD_BYTES: Final = 528
VECTOR_BYTES: Final = 512
RECORD: Final = struct.Struct("<II")

DESCRIPTOR_BYTES: Final = 4096
"""Of glibc's thread descriptor 1.9 KiB, of musl's 0.2 lie right below the thread pointer."""

MOST_ABOVE_THREAD_POINTER: Final = 65536
"""The variables of the thread, which follow it at the top of its stack's block."""

WORD: Final = 8


@dataclass(frozen=True, slots=True)
class SignalFrame:
    """A frame for one thread.

    Attributes:
        address: where it has to lie; the stack pointer while our calls are made.
        data: its bytes.
    """

    address: int
    data: bytes


def build_frame(registers: Registers, mask: int, fpsimd: bytes) -> SignalFrame:
    """The frame that brings a thread into this state.

    Args:
        registers: as they shall be.
        mask: blocked signals, signal N as bit N-1.
        fpsimd: NT_PRFPREG of the thread.

    Raises:
        ValueError: this is no such state.
    """
    if len(fpsimd) < VECTOR_BYTES + RECORD.size:
        raise ValueError(f"{len(fpsimd)} bytes are no FPSIMD state")
    alternate_stack = struct.pack("<QixxxxQ", 0, NO_SUCH_STACK, 0)
    context = struct.pack("<QQ", 0, 0) + alternate_stack
    signals = struct.pack("<Q", mask).ljust(MASK_BYTES, b"\0")
    general = struct.pack("<Q", 0) + bytes(registers)
    general += bytes(-len(general) % STACK_ALIGNMENT)
    vectors, status = fpsimd[:VECTOR_BYTES], fpsimd[VECTOR_BYTES : VECTOR_BYTES + RECORD.size]
    floating = RECORD.pack(FPSIMD_MAGIC, FPSIMD_BYTES) + status + vectors
    data = bytes(SIGINFO_BYTES) + context + signals + general + floating + RECORD.pack(0, 0)
    address = (registers.sp - len(data)) // STACK_ALIGNMENT * STACK_ALIGNMENT
    return SignalFrame(address, data)


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

    A runtime that switches stacks by itself may have other things below them, see :mod:`.stacks`;
    here the thread descriptor lies below the thread pointer and does not begin with its address.

    Args:
        lowest: first address that is to be used.
        stack_pointer: where the thread's stack begins now.
        mappings: of the process.
        main_thread: the one whose stack the kernel made and names `[stack]`.
        thread_pointer: its tpidr_el0.
        descriptor: memory up to the thread pointer, as much of it as could be read.
    """
    mapping = mappings.at(stack_pointer)
    if mapping is None or lowest < mapping.start or mapping.rights not in (b"rw-p", b"rwxp"):
        return False
    if main_thread and mapping.name == b"[stack]":
        return True
    if not stack_pointer < thread_pointer < mapping.end:
        return False
    # glibc keeps `stackblock, stackblock_size` in it and musl `map_base, map_size`.
    words = struct.unpack_from(f"<{len(descriptor) // WORD}Q", descriptor)
    highest = min(mapping.end, thread_pointer + MOST_ABOVE_THREAD_POINTER)
    return any(
        0 < base <= lowest and thread_pointer < base + size <= highest
        for base, size in pairwise(words)
    )
