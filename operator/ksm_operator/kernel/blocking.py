"""Which present system calls of a thread can be interrupted without a trace.

Three questions about a call in which a thread is blocked: may it be interrupted at all, does the
kernel restart it by itself, and would 0 be a legal answer if the tracer died half-way and the
thread had no way back of its own (then it sees the 0 of the injected call as its own). Answers are
by name, so they serve every machine; :mod:`.syscalls` has the numbers and the sources.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.syscalls import CALLS, Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable

MSG_WAITALL: Final = 0x100
FUTEX_COMMAND_MASK: Final = 0x7F
FUTEX_WAITS: Final = frozenset({0, 9})  # FUTEX_WAIT, FUTEX_WAIT_BITSET: may wake spuriously
FUTEX_LOCKS: Final = frozenset({6, 13})  # FUTEX_LOCK_PI, FUTEX_LOCK_PI2
FCNTL_WAITS: Final = frozenset({7, 38})  # F_SETLKW, F_OFD_SETLKW
MOST_CLOCKS: Final = 16
INT_SIGN: Final = 0x8000_0000
INT_BITS: Final = 0xFFFF_FFFF


class Suitability(IntEnum):
    """How well a thread can make a call for us; smaller is better."""

    RESTARTABLE = 0
    """Waits for something that has not happened: its call is simply made again."""

    ZERO_IS_LEGAL = 1
    """So too, and it must expect a 0 from its call at any time."""

    RUNNING = 2
    """In user code, or on its way out of a call that is done."""

    NEVER = 3


EINTR_BECOMES_RESTART: Final = frozenset(
    call.name for call in CALLS if call.interrupted in (Interrupted.EINTR, Interrupted.MAY_EINTR)
) | {"write", "writev", "sendto", "sendmsg", "sendmmsg", "recvmmsg"}
"""Calls that may end with EINTR after a stop (sockets: those with a timeout).

EINTR also says that nothing was transferred, so each may simply be run again.
"""

ALWAYS_EINTR: Final = frozenset(
    call.name for call in CALLS if call.interrupted is Interrupted.EINTR
)
"""Calls that see EINTR if the tracer dies between the stop and its first change."""

ZERO_IS_LEGAL: Final = frozenset({"nanosleep", "clock_nanosleep"})
"""A sleep that ends early: it hands nothing over, and who must be sure looks at the clock."""


RESUMED: Final = frozenset({"poll", "futex", "nanosleep", "clock_nanosleep"})
"""Calls that restart_syscall(2) stands for."""


def suitability(name: str | None, arguments: tuple[int, ...]) -> Suitability:
    """How well a thread blocked in this call serves; unknown calls never do.

    Bulk transfers (write, sendfile, splice, recv with MSG_WAITALL ...) are left out on purpose:
    interrupted half-way they come back short, and nothing can undo that.
    """
    if name is None:
        return Suitability.NEVER
    special = SPECIAL.get(name)
    if special is not None:
        return special(arguments)
    if name in ZERO_IS_LEGAL:
        return Suitability.ZERO_IS_LEGAL
    return Suitability.RESTARTABLE if name in RESTARTABLE else Suitability.NEVER


def resumed_call(wait_channel: str, arguments: tuple[int, ...]) -> str | None:
    """The call that a thread in restart_syscall(2) is really in; None if that cannot be told.

    Its arguments are still in the registers, its number is not. Only poll, futex and the two sleeps
    are taken up again so (who sets `restart_block->fn`: fs/select.c, kernel/futex/waitwake.c,
    kernel/time/), and the first two are told by what the kernel sleeps in (/proc/TID/wchan).
    """
    if wait_channel in ("", "0"):
        return None
    if wait_channel.startswith(("poll_", "do_sys_poll", "do_poll", "do_restart_poll")):
        return "poll"
    if wait_channel.startswith(("futex_", "__futex_")):
        return "futex"
    first = arguments[0]
    if first < MOST_CLOCKS:
        return "clock_nanosleep"
    # nanosleep has a pointer there; a clock of a thread or process is a negative int.
    return None if first & ~INT_BITS == 0 and first & INT_SIGN else "nanosleep"


def _if_timed(place: int) -> Callable[[tuple[int, ...]], Suitability]:
    """A wait with a time limit may find nothing; without one, libuv for one aborts on a 0."""
    return lambda arguments: (
        Suitability.ZERO_IS_LEGAL if arguments[place] else Suitability.RESTARTABLE
    )


def _if_milliseconds(place: int) -> Callable[[tuple[int, ...]], Suitability]:
    """The same where the limit is an int of milliseconds, and negative means none."""
    return lambda arguments: (
        Suitability.RESTARTABLE if arguments[place] & INT_SIGN else Suitability.ZERO_IS_LEGAL
    )


def _futex(arguments: tuple[int, ...]) -> Suitability:
    # 0 from FUTEX_LOCK_PI would mean that the lock was taken; FUTEX_WAIT_REQUEUE_PI would end.
    command = arguments[1] & FUTEX_COMMAND_MASK
    if command in FUTEX_WAITS:
        return Suitability.ZERO_IS_LEGAL
    return Suitability.RESTARTABLE if command in FUTEX_LOCKS else Suitability.NEVER


def _recv(flags: int) -> Suitability:
    return Suitability.NEVER if flags & MSG_WAITALL else Suitability.RESTARTABLE


def _uring(arguments: tuple[int, ...]) -> Suitability:
    # With something to submit, the waiting half is lost: it returns the number submitted. Without,
    # 0 is what it always answers, and its caller looks into the ring.
    return Suitability.NEVER if arguments[1] else Suitability.ZERO_IS_LEGAL


def _fcntl(arguments: tuple[int, ...]) -> Suitability:
    return Suitability.RESTARTABLE if arguments[1] in FCNTL_WAITS else Suitability.NEVER


SPECIAL: Final[dict[str, Callable[[tuple[int, ...]], Suitability]]] = {
    "futex": _futex,
    "poll": _if_milliseconds(2),
    "ppoll": _if_timed(2),
    "select": _if_timed(4),
    "pselect6": _if_timed(4),
    "epoll_wait": _if_milliseconds(3),
    "epoll_pwait": _if_milliseconds(3),
    "epoll_pwait2": _if_timed(3),
    "io_getevents": _if_timed(4),
    "io_pgetevents": _if_timed(4),
    "recvfrom": lambda arguments: _recv(arguments[3]),
    "recvmsg": lambda arguments: _recv(arguments[2]),
    "io_uring_enter": _uring,
    "fcntl": _fcntl,
}
"""Calls whose arguments decide."""

RESTARTABLE: Final = (
    frozenset(
        call.name
        for call in CALLS
        if call.interrupted not in (Interrupted.SHORT, Interrupted.ELSEWHERE)
    )
    - ZERO_IS_LEGAL
    - {"restart_syscall"}
)
"""Nothing has been transferred while these wait, so running them again gives the same result."""
