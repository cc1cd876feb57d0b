"""x86-64: registers, system call numbers, and what an interrupted call may be told.

Sources: arch/x86/include/uapi/asm/ptrace.h, arch/x86/kernel/signal.c (restart rules).
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Final

from ksm_operator.kernel.procfs import PROC
from ksm_operator.kernel.syscalls import CALLS

_U64 = ctypes.c_uint64

USER_CS: Final = 0x33
SYSCALL_INSTRUCTION: Final = b"\x0f\x05"
EINTR: Final = 4
ERESTARTSYS: Final = 512
ERESTARTNOINTR: Final = 513
ERESTARTNOHAND: Final = 514
ERESTART_RESTARTBLOCK: Final = 516


REGISTERS: Final = (
    "r15",
    "r14",
    "r13",
    "r12",
    "rbp",
    "rbx",
    "r11",
    "r10",
    "r9",
    "r8",
    "rax",
    "rcx",
    "rdx",
    "rsi",
    "rdi",
    "orig_rax",
    "rip",
    "cs",
    "eflags",
    "rsp",
    "ss",
    "fs_base",
    "gs_base",
    "ds",
    "es",
    "fs",
    "gs",
)


class Registers(ctypes.Structure):
    """struct user_regs_struct of a 64-bit task."""

    _fields_ = tuple((name, _U64) for name in REGISTERS)

    def copy(self) -> Registers:
        """The same values in memory of their own."""
        return Registers.from_buffer_copy(self)


@cache
def has_shadow_stacks() -> bool:
    """True if a thread of this machine may have a shadow stack.

    The kernel shows the flag where it lets user code have one (arch/x86/kernel/cpu/common.c).
    """
    with (PROC / "cpuinfo").open(encoding="ascii", errors="replace") as file:
        flags = next((line for line in file if line.startswith("flags")), "")
    return "user_shstk" in flags.split()


ARGUMENTS: Final = ("rdi", "rsi", "rdx", "r10", "r8", "r9")

NUMBERS: Final = {call.name: call.x86_64 for call in CALLS if call.x86_64 is not None}
"""The calls that this package makes or has to recognise, by name."""

NAMES: Final = {number: name for name, number in NUMBERS.items()}


def signed(value: int) -> int:
    """A 64-bit register as the kernel's signed long."""
    return value - (1 << 64) if value >> 63 else value


def unsigned(value: int) -> int:
    """A signed long as a 64-bit register."""
    return value & 0xFFFF_FFFF_FFFF_FFFF


def in_syscall(registers: Registers) -> bool:
    """True if the thread was stopped on its way out of a system call, not in user code."""
    return signed(registers.orig_rax) >= 0


def arguments(registers: Registers) -> tuple[int, ...]:
    """The six arguments of the system call that the thread is in."""
    return tuple(getattr(registers, name) for name in ARGUMENTS)


def is_interrupted(registers: Registers, restartable: frozenset[str]) -> bool:
    """True if the thread has yet to make its system call again; False if the call is done.

    Args:
        registers: as the stop shows them.
        restartable: calls for which EINTR means that nothing was done.
    """
    if not in_syscall(registers):
        return False
    answer = -signed(registers.rax)
    if answer == EINTR:
        return NAMES.get(registers.orig_rax) in restartable
    return answer in (ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK)


def with_restart(registers: Registers, restartable: frozenset[str]) -> Registers:
    """The registers to give back, so that the program never learns of our stop.

    The kernel restarts most calls by itself. Those in `restartable` end with EINTR instead; saying
    ERESTARTNOHAND in its place makes the kernel run the call again, unless a signal handler is
    about to run, which then rightly sees EINTR. A relative timeout starts anew.
    """
    given_back = registers.copy()
    if signed(registers.rax) == -EINTR and is_interrupted(registers, restartable):
        given_back.rax = unsigned(-ERESTARTNOHAND)
    return given_back


def made_again(registers: Registers, number: int) -> Registers:
    """Registers with which the thread makes an interrupted call from its beginning.

    For a thread that finds its way back alone: rt_sigreturn leaves no call to be restarted.
    """
    again = registers.copy()
    again.rip = registers.rip - len(SYSCALL_INSTRUCTION)
    again.rax = number
    again.orig_rax = unsigned(-1)
    return again


def for_call(
    registers: Registers,
    number: int,
    arguments: tuple[int, ...],
    site: int,
    stack: int | None = None,
) -> Registers:
    """Registers with which the thread makes a call of ours.

    Args:
        registers: its own.
        number: of the call.
        arguments: at most six.
        site: address of a `syscall` instruction.
        stack: where the signal frame lies that the code at `site` returns through, if there is one.
    """
    prepared = registers.copy()
    prepared.rip = site
    prepared.rax = number
    if stack is not None:
        prepared.rsp = stack
    # Otherwise the kernel would take the register set for an interrupted call and restart it.
    prepared.orig_rax = unsigned(-1)
    padded = arguments + (0,) * (len(ARGUMENTS) - len(arguments))
    for name, value in zip(ARGUMENTS, padded, strict=True):
        setattr(prepared, name, unsigned(value))
    return prepared
