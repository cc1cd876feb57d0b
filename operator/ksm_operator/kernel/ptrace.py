"""ptrace(2) and wait as this project needs them: every answer of the kernel is checked.

All requests for one target must come from the one thread that seized it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time
from enum import Enum
from functools import lru_cache
from typing import Final, NamedTuple

PTRACE_CONT: Final = 7
PTRACE_DETACH: Final = 17
PTRACE_SYSCALL: Final = 24
PTRACE_GETREGSET: Final = 0x4204
PTRACE_SETREGSET: Final = 0x4205
PTRACE_SEIZE: Final = 0x4206
PTRACE_INTERRUPT: Final = 0x4207
PTRACE_GETSIGMASK: Final = 0x420A
PTRACE_SETSIGMASK: Final = 0x420B
PTRACE_GET_RSEQ_CONFIGURATION: Final = 0x420F
PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG: Final = 0x4211

PTRACE_O_TRACESYSGOOD: Final = 0x1
PTRACE_O_TRACEEXEC: Final = 0x10
PTRACE_O_SUSPEND_SECCOMP: Final = 1 << 21
PTRACE_EVENT_EXEC: Final = 4
PTRACE_EVENT_STOP: Final = 128

NT_PRSTATUS: Final = 1
NT_X86_XSTATE: Final = 0x202
NT_X86_SHSTK: Final = 0x204
WALL: Final = 0x40000000
SIGTRAP: Final = 5
SYSCALL_STOP: Final = SIGTRAP | 0x80

SPIN_SECONDS: Final = 0.00003
"""A thread that has a CPU to itself stops sooner than we fall asleep and wake up."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_libc.waitpid.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _RseqConfiguration(ctypes.Structure):
    _fields_ = (
        ("rseq_abi_pointer", ctypes.c_uint64),
        ("rseq_abi_size", ctypes.c_uint32),
        ("signature", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
    )


def request(code: int, tid: int, address: int = 0, data: int = 0) -> int:
    """One ptrace request.

    Raises:
        OSError: with the kernel's errno.
    """
    answer: int = _libc.ptrace(code, tid, address, data)
    if answer == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"ptrace request {code:#x} on {tid}: {os.strerror(error)}")
    return answer


def get_registers(tid: int, registers: ctypes.Structure) -> int:
    """Fill in the general registers; returns how many bytes the target's ABI has of them."""
    vector = _Iovec(ctypes.addressof(registers), ctypes.sizeof(registers))
    request(PTRACE_GETREGSET, tid, NT_PRSTATUS, ctypes.addressof(vector))
    return int(vector.length)


def set_registers(tid: int, registers: ctypes.Structure) -> None:
    """Set all general registers."""
    vector = _Iovec(ctypes.addressof(registers), ctypes.sizeof(registers))
    request(PTRACE_SETREGSET, tid, NT_PRSTATUS, ctypes.addressof(vector))


def rseq_address(tid: int) -> int | None:
    """Where a stopped thread has registered its `struct rseq`; None if it has not (or pre-5.13)."""
    configuration = _RseqConfiguration()
    if not _tells(PTRACE_GET_RSEQ_CONFIGURATION, tid, configuration):
        return None
    return int(configuration.rseq_abi_pointer) or None


class _SyscallUserDispatch(ctypes.Structure):
    _fields_ = (
        ("mode", ctypes.c_uint64),
        ("selector", ctypes.c_uint64),
        ("offset", ctypes.c_uint64),
        ("length", ctypes.c_uint64),
    )


def dispatches_system_calls(tid: int) -> bool:
    """True if a stopped thread has its system calls sent to itself as signals (Wine does).

    False on kernels before 6.4, which do not tell.
    """
    configuration = _SyscallUserDispatch()
    return _tells(PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, tid, configuration) and bool(
        configuration.mode
    )


def _tells(what: int, tid: int, answer: ctypes.Structure) -> bool:
    """Have a structure filled in; False on a kernel that does not know the request."""
    try:
        request(what, tid, ctypes.sizeof(answer), ctypes.addressof(answer))
    except OSError as error:
        if error.errno == errno.ESRCH:
            raise
        return False
    return True


def signal_mask(tid: int) -> int:
    """Signals that a stopped thread blocks outside of its present call, signal N as bit N-1."""
    mask = ctypes.c_uint64()
    request(PTRACE_GETSIGMASK, tid, ctypes.sizeof(mask), ctypes.addressof(mask))
    return int(mask.value)


def set_signal_mask(tid: int, blocked: int) -> None:
    """Set which signals a stopped thread blocks, signal N as bit N-1."""
    mask = ctypes.c_uint64(blocked)
    request(PTRACE_SETSIGMASK, tid, ctypes.sizeof(mask), ctypes.addressof(mask))


class RegisterSet:
    """Room for one of the register sets (NT_*), made before a thread is stopped."""

    def __init__(self, kind: int, most_bytes: int) -> None:
        self._kind = kind
        self._most_bytes = most_bytes
        self._buffer = ctypes.create_string_buffer(most_bytes)
        self._vector = _Iovec(ctypes.addressof(self._buffer), most_bytes)

    def read(self, tid: int) -> bytes | None:
        """That of a stopped thread; None if it has none of this kind.

        Raises:
            OSError: with the kernel's errno.
        """
        self._vector.length = self._most_bytes
        vector = ctypes.addressof(self._vector)
        if _libc.ptrace(PTRACE_GETREGSET, tid, self._kind, vector) == 0:
            return ctypes.string_at(self._buffer, self._vector.length)
        error = ctypes.get_errno()
        if error in (errno.EINVAL, errno.ENODEV):
            return None
        raise OSError(error, f"register set {self._kind:#x} of {tid}: {os.strerror(error)}")


def register_set(tid: int, kind: int, most_bytes: int) -> bytes | None:
    """One of a stopped thread's register sets (NT_*); None if it has none of that kind."""
    return RegisterSet(kind, most_bytes).read(tid)


def set_register_set(tid: int, kind: int, data: bytes) -> None:
    """Set one of a stopped thread's register sets (NT_*)."""
    buffer = ctypes.create_string_buffer(data, len(data))
    vector = _Iovec(ctypes.addressof(buffer), len(data))
    request(PTRACE_SETREGSET, tid, kind, ctypes.addressof(vector))


class StopKind(Enum):
    """Why a traced thread stopped."""

    INTERRUPTED = "Interrupted"  # our PTRACE_INTERRUPT
    GROUP_STOP = "GroupStop"  # job control: SIGSTOP and kin
    SYSCALL = "Syscall"  # entry or exit of a system call
    SIGNAL = "Signal"  # a signal is about to be delivered
    EXEC = "Exec"  # it has just become another program
    OTHER = "Other"
    GONE = "Gone"  # it exited


class Stop(NamedTuple):
    """One stop.

    Attributes:
        kind: why.
        signal: the signal about to be delivered, or 0.
    """

    kind: StopKind
    signal: int = 0


@lru_cache
def parse_stop(status: int) -> Stop:
    """Read a wait status of a thread seized with TRACESYSGOOD and TRACEEXEC; ptrace(2)."""
    if not os.WIFSTOPPED(status):
        return Stop(StopKind.GONE)
    signal, event = os.WSTOPSIG(status), status >> 16
    if event == PTRACE_EVENT_STOP:
        return Stop(StopKind.INTERRUPTED if signal == SIGTRAP else StopKind.GROUP_STOP)
    if event:
        return Stop(StopKind.EXEC if event == PTRACE_EVENT_EXEC else StopKind.OTHER)
    if signal == SYSCALL_STOP:
        return Stop(StopKind.SYSCALL)
    return Stop(StopKind.SIGNAL, signal)


def wait_stop(tid: int, seconds: float) -> Stop | None:
    """The next stop of a thread that we trace; None if there is none in time.

    Only while an :class:`.alarm.Alarm` of the calling thread runs: it ends a wait for nothing.

    Raises:
        OSError: ECHILD when the thread is not ours (it vanished in an exec of its process).
    """
    start = time.monotonic()
    how = os.WNOHANG
    status = ctypes.c_int()
    # Not os.waitpid: that one goes on waiting after an interruption.
    while (found := _libc.waitpid(tid, ctypes.addressof(status), WALL | how)) != tid:
        error = ctypes.get_errno() if found == -1 else errno.EINTR
        if error != errno.EINTR:
            raise OSError(error, f"waiting for {tid}: {os.strerror(error)}")
        waited = time.monotonic() - start
        if waited > seconds:
            return None
        if waited > SPIN_SECONDS:
            how = 0
    return parse_stop(status.value)
