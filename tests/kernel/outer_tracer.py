"""A visit whose visitor dies: a process with the real `Tracer` in it, traced and killed by us.

The visitor is a child of its own. Every thread of it that traces is followed from system call to
system call; after as many of the calls that touch the target as were asked for, it is killed.
"""

import contextlib
import ctypes
import os
import platform
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field

from ksm_operator.kernel import Process, Syscall, Tracer, ptrace

PTRACE, PROCESS_VM_WRITEV = {"x86_64": (101, 311), "aarch64": (117, 271)}[platform.machine()]
PTRACE_GET_SYSCALL_INFO = 0x420E
PTRACE_SYSCALL_INFO_ENTRY, PTRACE_SYSCALL_INFO_EXIT = 1, 2
PTRACE_GETEVENTMSG = 0x4201
PTRACE_O_TRACECLONE = 0x8
PTRACE_EVENT_CLONE = 3


class SyscallInfo(ctypes.Structure):
    """struct ptrace_syscall_info at the entry of a system call; ptrace(2), Linux 5.3."""

    _fields_ = (
        ("op", ctypes.c_uint8),
        ("arch", ctypes.c_uint32),
        ("instruction_pointer", ctypes.c_uint64),
        ("stack_pointer", ctypes.c_uint64),
        ("number", ctypes.c_uint64),
        ("arguments", ctypes.c_uint64 * 6),
    )


@dataclass
class Death:
    """What the visitor had done to its target when it was killed.

    Attributes:
        requests: ptrace requests and the one write to memory (0), in their order.
        finished: it came to the end of its visit.
        failed: it could not visit the target (which had ended, on a machine that is busy).
    """

    requests: list[int] = field(default_factory=list)
    finished: bool = False
    failed: bool = False

    @property
    def registers_were_touched(self) -> bool:
        """From here on the target finds its way back by itself, or has been let go."""
        return ptrace.PTRACE_SETREGSET in self.requests


def visit_and_die(process: Process, calls: Sequence[Syscall], after: int | None) -> Death:
    """Visit a process, and die at the exit of so many calls that touch it; None: live on."""
    go_read, go_write = os.pipe()
    visitor = os.fork()
    if visitor == 0:
        _visit(process, calls, go_read)
    os.close(go_read)
    death = Death()
    options = ptrace.PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE
    ptrace.request(ptrace.PTRACE_SEIZE, visitor, 0, options)
    os.write(go_write, b"x")
    os.close(go_write)
    tracing = _new_thread(visitor)
    if tracing is None:
        death.failed = True
        return death
    _follow(visitor, tracing, death, after)
    status = os.waitpid(visitor, 0)[1]
    death.failed = death.finished and status != 0
    return death


def _visit(process: Process, calls: Sequence[Syscall], go: int) -> None:
    """The child: once it is being followed, one visit by the code that is shipped."""
    code = 1
    try:
        os.read(go, 1)
        Tracer().call(process, calls)
        code = 0
    finally:
        os._exit(code)


def _new_thread(visitor: int) -> int | None:
    """The thread that the visitor starts to trace with; None if it ends without one.

    Its first thread is let go: it would be stopped for every SIGCHLD of the target otherwise.
    """
    status = os.waitpid(visitor, 0)[1]
    if not os.WIFSTOPPED(status):
        return None
    assert status >> 16 == PTRACE_EVENT_CLONE, hex(status)
    tid = ctypes.c_ulong()
    ptrace.request(PTRACE_GETEVENTMSG, visitor, 0, ctypes.addressof(tid))
    ptrace.request(ptrace.PTRACE_DETACH, visitor)
    return int(tid.value)


def _follow(visitor: int, tracing: int, death: Death, after: int | None) -> None:
    info = SyscallInfo()
    where = (tracing, ctypes.sizeof(info), ctypes.addressof(info))
    request: int | None = None
    while True:
        status = os.waitpid(tracing, ptrace.WALL)[1]
        if not os.WIFSTOPPED(status):
            death.finished = True
            return
        # Once the visit is over the visitor exits, and the thread is gone from any stop.
        with contextlib.suppress(ProcessLookupError):
            if os.WSTOPSIG(status) == ptrace.SYSCALL_STOP:
                ptrace.request(PTRACE_GET_SYSCALL_INFO, *where)
                if info.op == PTRACE_SYSCALL_INFO_ENTRY:
                    request = _request(info)
                elif info.op == PTRACE_SYSCALL_INFO_EXIT and request is not None:
                    death.requests.append(request)
                    if len(death.requests) == after:
                        os.kill(visitor, signal.SIGKILL)
                        os.waitpid(tracing, ptrace.WALL)
                        return
            ptrace.request(ptrace.PTRACE_SYSCALL, tracing)


def _request(info: SyscallInfo) -> int | None:
    if info.number == PROCESS_VM_WRITEV:
        return 0
    return int(info.arguments[0]) if info.number == PTRACE else None
