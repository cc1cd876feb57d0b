"""x86-64: registers, system call numbers, and what an interrupted call may be told.

Sources: arch/x86/include/uapi/asm/ptrace.h, arch/x86/entry/syscalls/syscall_64.tbl,
arch/x86/kernel/signal.c (restart rules), signal(7) (which calls end with EINTR).
"""

from __future__ import annotations

import ctypes
from typing import Final

_U64 = ctypes.c_uint64

USER_CS: Final = 0x33
SYSCALL_INSTRUCTION: Final = b"\x0f\x05"
EINTR: Final = 4
ERESTARTSYS: Final = 512
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


ARGUMENTS: Final = ("rdi", "rsi", "rdx", "r10", "r8", "r9")

NUMBERS: Final[dict[str, int]] = {
    "read": 0,
    "write": 1,
    "poll": 7,
    "pread64": 17,
    "pwrite64": 18,
    "readv": 19,
    "writev": 20,
    "select": 23,
    "madvise": 28,
    "pause": 34,
    "nanosleep": 35,
    "sendfile": 40,
    "connect": 42,
    "accept": 43,
    "sendto": 44,
    "recvfrom": 45,
    "sendmsg": 46,
    "recvmsg": 47,
    "clone": 56,
    "fork": 57,
    "vfork": 58,
    "execve": 59,
    "wait4": 61,
    "semop": 65,
    "msgsnd": 69,
    "msgrcv": 70,
    "fcntl": 72,
    "flock": 73,
    "rt_sigtimedwait": 128,
    "rt_sigsuspend": 130,
    "prctl": 157,
    "futex": 202,
    "io_getevents": 208,
    "restart_syscall": 219,
    "semtimedop": 220,
    "clock_nanosleep": 230,
    "epoll_wait": 232,
    "mq_timedsend": 242,
    "mq_timedreceive": 243,
    "waitid": 247,
    "openat": 257,
    "pselect6": 270,
    "ppoll": 271,
    "splice": 275,
    "tee": 276,
    "vmsplice": 278,
    "epoll_pwait": 281,
    "accept4": 288,
    "preadv": 295,
    "pwritev": 296,
    "recvmmsg": 299,
    "sendmmsg": 307,
    "getrandom": 318,
    "execveat": 322,
    "copy_file_range": 326,
    "preadv2": 327,
    "pwritev2": 328,
    "io_pgetevents": 333,
    "io_uring_enter": 426,
    "clone3": 435,
    "epoll_pwait2": 441,
    "futex_waitv": 449,
}
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


def with_restart(registers: Registers, restartable: frozenset[str]) -> Registers:
    """The registers to give back, so that the program never learns of our stop.

    The kernel restarts most calls by itself. Those in `restartable` end with EINTR instead; saying
    ERESTARTNOHAND in its place makes the kernel run the call again, unless a signal handler is
    about to run, which then rightly sees EINTR. A relative timeout starts anew.
    """
    given_back = registers.copy()
    if (
        in_syscall(registers)
        and signed(registers.rax) == -EINTR
        and NAMES.get(registers.orig_rax) in restartable
    ):
        given_back.rax = unsigned(-ERESTARTNOHAND)
    return given_back


def for_call(registers: Registers, number: int, arguments: tuple[int, ...], site: int) -> Registers:
    """Registers with which the thread makes this call from the `syscall` instruction at `site`."""
    prepared = registers.copy()
    prepared.rip = site
    prepared.rax = number
    # Otherwise the kernel would take the register set for an interrupted call and restart it.
    prepared.orig_rax = unsigned(-1)
    padded = arguments + (0,) * (len(ARGUMENTS) - len(arguments))
    for name, value in zip(ARGUMENTS, padded, strict=True):
        setattr(prepared, name, unsigned(value))
    return prepared
