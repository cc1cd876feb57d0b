"""The cases of blocking.c: which call each waits in, and how that call has to end."""

from typing import NamedTuple

from ksm_operator.kernel.machine import this_machine

LEAST_MS = 695
"""Every case waits for 700 ms; clocks differ by a little."""


class Case(NamedTuple):
    """One case.

    Attributes:
        name: argument of the program.
        call: the system call that it waits in.
        answer: result, errno, and a checksum of the data.
    """

    name: str
    call: str
    answer: tuple[int, int, int]


class Outcome(NamedTuple):
    """What the program printed at its end.

    Attributes:
        answer: as in `Case`.
        elapsed_ms: how long the call took.
        handled: signals that a handler of the program saw meanwhile.
        state: `whole`, or what of the thread's state came back changed.
    """

    answer: tuple[int, int, int]
    elapsed_ms: int
    handled: int
    state: str


def read_outcome(line: str) -> Outcome:
    """Read the program's last line."""
    *numbers, state = line.split()
    result, error, elapsed, extra, handled = map(int, numbers)
    return Outcome((result, error, extra), elapsed, handled, state)


NUMBERS = {name: number for number, name in this_machine().names.items()}
"""This machine's system calls by name."""

EVERY_CASE = (
    Case("epoll_wait", "epoll_wait", (0, 0, 0)),
    Case("epoll_pwait", "epoll_pwait", (0, 0, 0)),
    Case("epoll_pwait2", "epoll_pwait2", (0, 0, 0)),
    Case("poll", "poll", (0, 0, 0)),
    Case("ppoll", "ppoll", (0, 0, 0)),
    Case("select", "select", (0, 0, 0)),
    Case("pselect6", "pselect6", (0, 0, 0)),
    Case("futex", "futex", (-1, 110, 0)),
    Case("futex_absolute", "futex", (-1, 110, 0)),
    Case("mutex", "futex", (0, 0, 0)),
    Case("nanosleep", "nanosleep", (0, 0, 0)),
    Case("clock_nanosleep", "clock_nanosleep", (0, 0, 0)),
    Case("clock_nanosleep_relative", "clock_nanosleep", (0, 0, 0)),
    Case("epoll_wait_endless", "epoll_wait", (1, 0, 77)),
    Case("epoll_pwait_endless", "epoll_pwait", (1, 0, 77)),
    Case("poll_endless", "poll", (1, 0, 1)),
    Case("ppoll_endless", "ppoll", (1, 0, 1)),
    Case("futex_endless", "futex", (0, 0, 1)),
    Case("read", "read", (10, 0, 1027)),
    Case("readv", "readv", (10, 0, 1027)),
    Case("eventfd", "read", (8, 0, 42)),
    Case("timerfd", "read", (8, 0, 1)),
    Case("recvfrom", "recvfrom", (9, 0, 878)),
    Case("recv_timeout", "recvfrom", (-1, 11, 0)),
    Case("read_timeout", "read", (-1, 11, 0)),
    Case("accept_timeout", "accept", (-1, 11, 0)),
    Case("wait4", "wait4", (1, 0, 7)),
    Case("waitid", "waitid", (0, 0, 7)),
    Case("rt_sigtimedwait", "rt_sigtimedwait", (-1, 11, 0)),
    Case("semtimedop", "semtimedop", (-1, 11, 0)),
    Case("msgrcv", "msgrcv", (8, 0, 532)),
    Case("mq_timedreceive", "mq_timedreceive", (-1, 110, 0)),
    Case("pause", "pause", (-1, 4, 14)),
    Case("rt_sigsuspend", "rt_sigsuspend", (-1, 4, 14)),
    Case("flock", "flock", (0, 0, 0)),
    Case("io_getevents", "io_getevents", (0, 0, 0)),
    Case("epoll_pwait2_endless", "epoll_pwait2", (1, 0, 77)),
    Case("select_endless", "select", (1, 0, 1)),
    Case("futex_pi", "futex", (0, 0, 1)),
    Case("futex_waitv", "futex_waitv", (-1, 110, 0)),
    Case("recvmsg", "recvmsg", (9, 0, 878)),
    Case("accept", "accept4", (1, 0, 0)),
    Case("connect", "connect", (0, 0, 0)),
    Case("connect_timeout", "connect", (-1, 11, 0)),
    Case("rt_sigtimedwait_endless", "rt_sigtimedwait", (14, 0, 0)),
    Case("semop", "semop", (0, 0, 0)),
    Case("msgsnd", "msgsnd", (0, 0, 0)),
    Case("mq_timedsend", "mq_timedsend", (-1, 110, 0)),
    Case("fcntl", "fcntl", (0, 0, 0)),
    Case("openat", "openat", (1, 0, 0)),
    Case("io_getevents_endless", "io_getevents", (1, 0, 77)),
    Case("io_uring_enter", "io_uring_enter", (-1, 62, 0)),
    Case("io_uring_enter_endless", "io_uring_enter", (0, 0, 77)),
)

CASES = [case for case in EVERY_CASE if case.call in NUMBERS]
"""Those that this machine has: aarch64 never had poll, select, epoll_wait and pause."""
