"""aarch64: registers, where a stopped thread stands, and how its call is made again.

Unlike x86-64 the kernel rewinds an interrupted call before the stop and keeps to itself which of
the restart codes it was, so what a tracer has to do follows from the instructions around the
program counter. See docs/design/remote-syscall-aarch64.md.

Sources: arch/arm64/kernel/signal.c do_signal(), arch/arm64/kernel/syscall.c el0_svc_common(),
arch/arm64/include/uapi/asm/ptrace.h, include/uapi/linux/elf.h.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from enum import Enum
from typing import Final

from ksm_operator.kernel.blocking import (
    ALWAYS_EINTR,
    EINTR_BECOMES_RESTART,
    FUTEX_COMMAND_MASK,
    FUTEX_LOCKS,
)
from ksm_operator.kernel.syscalls import CALLS

NT_PRFPREG: Final = 2
NT_ARM_TLS: Final = 0x401
NT_ARM_SYSTEM_CALL: Final = 0x404
NT_ARM_SVE: Final = 0x405
NT_ARM_SSVE: Final = 0x40B
NT_ARM_GCS: Final = 0x410

SVC: Final = b"\x01\x00\x00\xd4"  # svc #0
INSTRUCTION_BYTES: Final = 4
GENERAL: Final = 31
PSTATE_BTYPE: Final = 0xC00
NO_SYSTEM_CALL: Final = -1
TIMER_ABSTIME: Final = 1

EINTR: Final = 4
ERESTARTSYS: Final = 512
ERESTARTNOINTR: Final = 513
ERESTARTNOHAND: Final = 514
ERESTART_RESTARTBLOCK: Final = 516

NUMBERS: Final = {
    **{call.name: call.aarch64 for call in CALLS if call.aarch64 is not None},
    "rt_sigreturn": 139,
    "sched_yield": 124,
}
"""System calls by name; include/uapi/asm-generic/unistd.h."""

NAMES: Final = {number: name for name, number in NUMBERS.items()}

ENDS_AFTER_ANY_HANDLER: Final = ALWAYS_EINTR | {"ppoll", "pselect6", "rt_sigsuspend"}
"""Calls that end with EINTR when a handler ran, whether it has SA_RESTART or not."""

_U64 = ctypes.c_uint64


class Registers(ctypes.Structure):
    """struct user_pt_regs, NT_PRSTATUS of a 64-bit task; one of 32 bits has 72 bytes instead."""

    _fields_ = (("x", _U64 * GENERAL), ("sp", _U64), ("pc", _U64), ("pstate", _U64))

    x: ctypes.Array[ctypes.c_uint64]
    sp: int
    pc: int
    pstate: int

    def copy(self) -> Registers:
        """The same values in memory of their own."""
        return Registers.from_buffer_copy(self)


@dataclass(frozen=True, slots=True)
class Waited:
    """A call in which a thread waited before our interrupt; /proc/TID/syscall, proc(5).

    Attributes:
        number: of the call.
        arguments: all six, the first of which cannot be read any more once the thread is stopped.
        sp: its stack pointer.
        pc: where the call returns to.
    """

    number: int
    arguments: tuple[int, ...]
    sp: int
    pc: int


class Place(Enum):
    """Where a thread stands that we stopped."""

    BEFORE_CALL = "BeforeCall"
    """On an svc: it was interrupted in this call, or is about to make it."""

    AFTER_EINTR = "AfterEintr"
    """Behind an svc whose call our stop ended with EINTR, and which can be made again."""

    USER_CODE = "UserCode"


def parse_waited(text: str) -> Waited | None:
    """Parse /proc/TID/syscall; None if the thread did not wait in a call."""
    words = text.split()
    if len(words) != len(("number", *range(6), "sp", "pc")):
        return None
    try:
        number, *values = int(words[0]), *(int(word, 16) for word in words[1:])
    except ValueError:
        return None
    return Waited(number, tuple(values[:6]), values[6], values[7])


def place(found: Registers, before: bytes, at: bytes, waited: Waited | None) -> Place:
    """Where a thread stands.

    Args:
        found: its registers.
        before: the instruction before the program counter, empty if it cannot be read.
        at: the instruction at the program counter.
        waited: what it did before the interrupt, if that was a call.
    """
    if at == SVC:
        return Place.BEFORE_CALL
    if before == SVC and waited is not None and _ended_with_eintr(found, waited):
        return Place.AFTER_EINTR
    return Place.USER_CODE


def _ended_with_eintr(found: Registers, waited: Waited) -> bool:
    # Only if nothing else has changed is the first argument still the one that was noted.
    return (
        signed(found.x[0]) == -EINTR
        and NAMES.get(waited.number) in EINTR_BECOMES_RESTART
        and (found.x[8], found.sp, found.pc) == (waited.number, waited.sp, waited.pc)
        and tuple(found.x[1:6]) == waited.arguments[1:]
    )


def rewound(found: Registers, waited: Waited) -> Registers:
    """Registers with which the thread makes a call again that has ended with EINTR."""
    again = found.copy()
    again.pc = found.pc - INSTRUCTION_BYTES
    again.x[0] = waited.arguments[0]
    return again


def returned_to(own: Registers, number: int) -> Registers:
    """Registers for a thread that finds its way back alone to make its call from the beginning.

    rt_sigreturn(2) forgets what restart_syscall(2) would have taken up again.
    """
    again = own.copy()
    again.x[8] = number
    return again


def for_call(
    own: Registers, arguments: tuple[int, ...], *, stack: int | None = None, then: int | None = None
) -> Registers:
    """Registers with which the thread makes a call; which one is said elsewhere.

    Args:
        own: its own.
        arguments: at most six; the others become 0.
        stack: where the signal frame lies, if there is one.
        then: where it goes on after the call.
    """
    prepared = own.copy()
    for index in range(6):
        value = arguments[index] if index < len(arguments) else 0
        prepared.x[index] = unsigned(value)
    if stack is not None:
        prepared.sp = stack
    if then is not None:
        prepared.pc = then
        # Left by an indirect branch: the next instruction had to be a landing pad.
        prepared.pstate = own.pstate & ~PSTATE_BTYPE
    return prepared


def interrupted(own: Registers, entered: int, *, said_eintr: bool) -> Registers:
    """Registers at the exit of a system call that make the kernel restart the thread's own call.

    To the kernel it is then in a call that was interrupted: it makes it again, or lets it end with
    EINTR if a handler runs and the call or SA_RESTART wants it so.

    Args:
        own: the thread on its svc.
        entered: the number of the call as the kernel entered it; 128 (restart_syscall) where it
            has a remaining time to go by.
        said_eintr: the kernel let it end with EINTR at our stop.
    """
    back = entered_as(own, entered)
    back.x[0] = unsigned(-restart_code(entered, tuple(own.x[:6]), said_eintr=said_eintr))
    return back


def entered_as(own: Registers, entered: int) -> Registers:
    """Registers at the entry of the thread's own call; arguments as in `interrupted`."""
    inside = own.copy()
    inside.pc = own.pc + INSTRUCTION_BYTES
    inside.x[8] = entered
    return inside


def restart_code(entered: int, arguments: tuple[int, ...], *, said_eintr: bool) -> int:
    """What an interrupted call tells the kernel, positive; signal(7) and the rows of `CALLS`."""
    name = NAMES.get(entered)
    if name == "restart_syscall":
        return ERESTART_RESTARTBLOCK
    if said_eintr or name in ENDS_AFTER_ANY_HANDLER:
        return ERESTARTNOHAND
    if name == "futex" and arguments[1] & FUTEX_COMMAND_MASK in FUTEX_LOCKS:
        return ERESTARTNOINTR
    if name == "clock_nanosleep" and arguments[1] & TIMER_ABSTIME:
        return ERESTARTNOHAND
    if name in ("nanosleep", "clock_nanosleep"):
        # It would enter restart_syscall if it had slept: it has yet to begin.
        return ERESTARTNOINTR
    return ERESTARTSYS


def signed(value: int) -> int:
    """A 64-bit register as the kernel's signed long."""
    return value - (1 << 64) if value >> 63 else value


def unsigned(value: int) -> int:
    """A signed long as a 64-bit register."""
    return value & 0xFFFF_FFFF_FFFF_FFFF
