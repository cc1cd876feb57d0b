"""Which present system calls of a thread can be interrupted without a trace.

Three questions about a call in which a thread is blocked: may it be interrupted at all, does the
kernel restart it by itself, and would 0 be a legal answer if the tracer died half-way (then the
thread sees the 0 of the injected call as its own). The tables are by name, so they serve every
machine; docs/design/remote-syscall.md gives the source of each row.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

MSG_WAITALL: Final = 0x100
FUTEX_COMMAND_MASK: Final = 0x7F
FUTEX_WAITS: Final = frozenset({0, 9})  # FUTEX_WAIT, FUTEX_WAIT_BITSET: may wake spuriously
FCNTL_WAITS: Final = frozenset({7, 38})  # F_SETLKW, F_OFD_SETLKW


class Suitability(IntEnum):
    """How well a thread can make a call for us; smaller is better."""

    ZERO_IS_LEGAL = 0
    RESTARTABLE = 1
    RUNNING = 2
    NEVER = 3


ZERO_IS_LEGAL: Final = frozenset(
    {
        "poll",
        "ppoll",
        "select",
        "pselect6",
        "epoll_wait",
        "epoll_pwait",
        "epoll_pwait2",
        "nanosleep",
        "clock_nanosleep",
        "io_getevents",
        "io_pgetevents",
        "restart_syscall",  # what the kernel calls a nanosleep, poll or futex wait taken up again
    }
)
"""A timeout, a spurious wake-up or nothing ready: the caller must expect it."""

RESTARTABLE: Final = frozenset(
    {
        "read",
        "readv",
        "pread64",
        "preadv",
        "preadv2",
        "accept",
        "accept4",
        "connect",
        "wait4",
        "waitid",
        "rt_sigtimedwait",
        "rt_sigsuspend",
        "pause",
        "semop",
        "semtimedop",
        "msgrcv",
        "msgsnd",
        "mq_timedreceive",
        "mq_timedsend",
        "flock",
        "openat",
        "futex_waitv",
        "getrandom",
    }
)
"""Nothing has been transferred while these wait, so running them again gives the same result."""

EINTR_BECOMES_RESTART: Final = frozenset(
    {
        "epoll_wait",
        "epoll_pwait",
        "epoll_pwait2",
        "rt_sigtimedwait",
        "semop",
        "semtimedop",
        "msgrcv",
        "msgsnd",
        "io_getevents",
        "io_pgetevents",
        "io_uring_enter",
        "accept",
        "accept4",
        "connect",
        "read",
        "readv",
        "recvfrom",
        "recvmsg",
        "recvmmsg",
        "write",
        "writev",
        "sendto",
        "sendmsg",
        "sendmmsg",
    }
)
"""Calls that the kernel ends with EINTR after a stop (sockets: those with a timeout).

EINTR also says that nothing was transferred, so each may simply be run again.
"""


def suitability(name: str | None, arguments: tuple[int, ...]) -> Suitability:
    """How well a thread blocked in this call serves; unknown calls never do.

    Bulk transfers (write, sendfile, splice, recv with MSG_WAITALL ...) are left out on purpose:
    interrupted half-way they come back short, and nothing can undo that.
    """
    if name is None:
        return Suitability.NEVER
    if name in ZERO_IS_LEGAL:
        return Suitability.ZERO_IS_LEGAL
    if name in RESTARTABLE:
        return Suitability.RESTARTABLE
    special = SPECIAL.get(name)
    return special(arguments) if special else Suitability.NEVER


def _futex(arguments: tuple[int, ...]) -> Suitability:
    # 0 from FUTEX_LOCK_PI would mean that the lock was taken.
    if arguments[1] & FUTEX_COMMAND_MASK in FUTEX_WAITS:
        return Suitability.ZERO_IS_LEGAL
    return Suitability.RESTARTABLE


def _recv(flags: int) -> Suitability:
    return Suitability.NEVER if flags & MSG_WAITALL else Suitability.RESTARTABLE


def _uring(arguments: tuple[int, ...]) -> Suitability:
    # With something to submit, the waiting half is lost: it returns the number submitted.
    return Suitability.NEVER if arguments[1] else Suitability.ZERO_IS_LEGAL


def _fcntl(arguments: tuple[int, ...]) -> Suitability:
    return Suitability.RESTARTABLE if arguments[1] in FCNTL_WAITS else Suitability.NEVER


SPECIAL: Final[dict[str, Callable[[tuple[int, ...]], Suitability]]] = {
    "futex": _futex,
    "recvfrom": lambda arguments: _recv(arguments[3]),
    "recvmsg": lambda arguments: _recv(arguments[2]),
    "io_uring_enter": _uring,
    "fcntl": _fcntl,
}
"""Calls whose arguments decide."""
