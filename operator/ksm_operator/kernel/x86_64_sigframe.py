"""The signal frame through which an x86-64 thread returns to its own state without us.

The kernel writes such a frame before it runs a signal handler, and rt_sigreturn(2) takes the whole
state of the thread back from it: registers, floating point and vector state, signal mask. Here it
is written before the first register of the thread is changed, so that a thread whose tracer dies
finds its way back by itself.

Sources: struct rt_sigframe in arch/x86/include/asm/sigframe.h, struct ucontext and sigcontext_64 in
arch/x86/include/uapi/asm/, restore_sigcontext() in arch/x86/kernel/signal_64.c,
check_xstate_in_sigframe() in arch/x86/kernel/fpu/signal.c, do_sigaltstack() in kernel/signal.c.
"""

from __future__ import annotations

import struct
from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from ksm_operator.kernel.x86_64 import Registers

RED_ZONE_BYTES: Final = 128
FRAME_BYTES: Final = 8 + 304 + 128  # return address, ucontext, siginfo
STATE_OFFSET: Final = FRAME_BYTES + 16
"""The vector state lies on a multiple of 64, the frame 8 below a multiple of 16, as the kernel
aligns it (like after a call instruction)."""

UC_FP_XSTATE: Final = 0x1
UC_SIGCONTEXT_SS: Final = 0x2
UC_STRICT_RESTORE_SS: Final = 0x4
UC_FLAGS: Final = UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS

NO_SUCH_STACK: Final = 3
"""SS_ONSTACK and SS_DISABLE at once: the kernel refuses it and keeps the thread's alternate stack,
which ptrace does not show."""

FP_XSTATE_MAGIC1: Final = 0x46505853
FP_XSTATE_MAGIC2: Final = 0x46505845
SOFTWARE_BYTES: Final = slice(464, 512)
FEATURES: Final = struct.Struct("<Q")
FEATURES_IN_USE: Final = 512
LEAST_XSTATE_BYTES: Final = 576

TILE_DATA: Final = 1 << 18
TILE_DATA_BYTES: Final = 8192
"""AMX tiles, the last and only part whose room a thread gets on demand. The kernel takes a frame
for broken that is larger than the thread's own room, and ptrace shows the largest there is."""

# fmt: off
GENERAL: Final = (
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rdi", "rsi", "rbp", "rbx", "rdx", "rax",
    "rcx", "rsp", "rip", "eflags",
)
# fmt: on
"""The order of struct sigcontext_64."""


FRAME: Final = struct.Struct(
    "<Q"  # the address that it returns to
    "QQ"  # uc_flags, uc_link
    "QixxxxQ"  # uc_stack
    "18Q4H4QQ64x"  # uc_mcontext: GENERAL, segments, error and fault, fpstate
    "Q"  # uc_sigmask
    "144x"  # siginfo, and what aligns the vector state
)
FIGURES: Final = struct.Struct("<IIQI28x")
MAGIC2: Final = struct.pack("<I", FP_XSTATE_MAGIC2)

_general = attrgetter(*GENERAL)


class SignalFrame(NamedTuple):
    """A frame for one thread.

    Attributes:
        address: where it has to lie; the stack pointer while our calls are made.
        data: its bytes. The first eight are the address that the call returns to.
    """

    address: int
    data: bytes


def build_frame(registers: Registers, mask: int, xstate: bytes, restorer: int) -> SignalFrame:
    """The frame that brings a thread into this state.

    Args:
        registers: as they shall be. An interrupted call is started anew by a `rip` at its
            `syscall` instruction and its number in `rax`.
        mask: blocked signals, signal N as bit N-1.
        xstate: NT_X86_XSTATE of the thread.
        restorer: address of code that calls rt_sigreturn.
    """
    state = _floating_point(xstate)
    floating = _down(registers.rsp - RED_ZONE_BYTES - len(state), 64)
    # fmt: off
    frame = FRAME.pack(
        restorer,
        UC_FLAGS, 0,
        0, NO_SUCH_STACK, 0,
        *_general(registers), registers.cs, 0, 0, registers.ss, 0, 0, 0, 0, floating,
        mask,
    )
    # fmt: on
    return SignalFrame(floating - STATE_OFFSET, frame + state)


def _floating_point(xstate: bytes) -> bytes:
    """The vector state as a signal frame holds it: with its sizes inside and a magic at its end.

    Raises:
        ValueError: this is no such state.
    """
    if len(xstate) < LEAST_XSTATE_BYTES:
        raise ValueError(f"{len(xstate)} bytes are no XSTATE")
    # ptrace leaves the features that the system has enabled where the frame's own figures go.
    enabled: int = FEATURES.unpack_from(xstate, SOFTWARE_BYTES.start)[0]
    in_use: int = FEATURES.unpack_from(xstate, FEATURES_IN_USE)[0]
    size = len(xstate)
    if enabled & TILE_DATA and not in_use & TILE_DATA and size > TILE_DATA_BYTES:
        enabled &= ~TILE_DATA
        size -= TILE_DATA_BYTES
    figures = FIGURES.pack(FP_XSTATE_MAGIC1, size + len(MAGIC2), enabled, size)
    rest = xstate[SOFTWARE_BYTES.stop : size]
    return b"".join((xstate[: SOFTWARE_BYTES.start], figures, rest, MAGIC2))


def _down(address: int, alignment: int) -> int:
    return address // alignment * alignment
