"""Which thread may be stopped: decided from text alone, so every row can be tried."""

from dataclasses import replace

import pytest

from ksm_operator.kernel import aarch64
from ksm_operator.kernel.blocking import (
    EINTR_BECOMES_RESTART,
    RESTARTABLE,
    RESUMED,
    SPECIAL,
    ZERO_IS_LEGAL,
    Suitability,
    suitability,
)
from ksm_operator.kernel.procfs import Process, Stat
from ksm_operator.kernel.threads import (
    Candidate,
    Unsuitable,
    is_off_stack,
    judge,
    preference,
)
from ksm_operator.kernel.x86_64 import NAMES, NUMBERS


def stat(state: str = "S", flags: int = 0) -> Stat:
    """A thread in this state."""
    return Stat("worker", state, 1, flags, 5, 0)


def line(name: str, *arguments: int) -> str:
    """/proc/TID/syscall of a thread blocked in a call."""
    padded = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    return " ".join([str(NUMBERS[name]), *map(hex, padded), "0x7ffc0", "0x7f00"]) + "\n"


@pytest.mark.parametrize(
    ("numbers", "lacks"),
    [(NUMBERS, set()), (aarch64.NUMBERS, {"poll", "select", "epoll_wait", "pause"})],
    ids=["x86_64", "aarch64"],
)
def test_every_call_in_the_tables_has_a_number(numbers: dict[str, int], lacks: set[str]) -> None:
    """A name without a number would never be recognised."""
    names = ZERO_IS_LEGAL | RESTARTABLE | EINTR_BECOMES_RESTART | RESUMED | set(SPECIAL)
    assert names - set(numbers) == lacks


def test_no_call_is_in_two_tables() -> None:
    """The first to be asked would win."""
    assert not ZERO_IS_LEGAL & RESTARTABLE


@pytest.mark.parametrize("name", sorted(ZERO_IS_LEGAL))
def test_waits_with_a_legal_zero_are_known(name: str) -> None:
    """Where there is no way back for it, the thread would see a short sleep."""
    assert judge(7, stat(), line(name), "x", NAMES) == Candidate(7, Suitability.ZERO_IS_LEGAL, name)


@pytest.mark.parametrize(
    "name", ["write", "writev", "sendfile", "splice", "sendto", "sendmsg", "vfork", "execve"]
)
def test_bulk_transfers_are_never_interrupted(name: str) -> None:
    """They would come back short."""
    assert judge(7, stat(), line(name), "x", NAMES) == Unsuitable("BusyInSyscall", name)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (("recvfrom", 3, 0, 100, 0), Suitability.RESTARTABLE),
        (("recvfrom", 3, 0, 100, 0x100), Suitability.NEVER),
        (("recvmsg", 3, 0, 0x100), Suitability.NEVER),
        (("futex", 0, 128), Suitability.ZERO_IS_LEGAL),
        (("futex", 0, 128 | 9), Suitability.ZERO_IS_LEGAL),
        (("futex", 0, 6), Suitability.RESTARTABLE),
        (("io_uring_enter", 3, 0, 1), Suitability.ZERO_IS_LEGAL),
        (("io_uring_enter", 3, 5, 1), Suitability.NEVER),
        (("fcntl", 3, 7), Suitability.RESTARTABLE),
        (("fcntl", 3, 3), Suitability.NEVER),
        (("futex", 0, 128 | 11), Suitability.NEVER),
        (("poll", 0, 1, 500), Suitability.ZERO_IS_LEGAL),
        (("poll", 0, 1, 0xFFFF_FFFF), Suitability.RESTARTABLE),
        (("epoll_wait", 3, 0, 1, 0), Suitability.ZERO_IS_LEGAL),
        (("epoll_wait", 3, 0, 1, 0xFFFF_FFFF), Suitability.RESTARTABLE),
        (("epoll_pwait", 3, 0, 1, 0xFFFF_FFFF_FFFF_FFFF), Suitability.RESTARTABLE),
        (("epoll_pwait2", 3, 0, 1, 0x7FFC0), Suitability.ZERO_IS_LEGAL),
        (("ppoll", 0, 1, 0), Suitability.RESTARTABLE),
        (("select", 1, 0, 0, 0, 0x7FFC0), Suitability.ZERO_IS_LEGAL),
        (("pselect6", 1, 0, 0, 0, 0), Suitability.RESTARTABLE),
    ],
)
def test_arguments_decide(call: tuple[str, *tuple[int, ...]], expected: Suitability) -> None:
    """The same call is harmless or not by what it was asked."""
    name, *arguments = call
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    assert suitability(name, padded) is expected


@pytest.mark.parametrize(
    ("state", "flags", "channel", "reason"),
    [
        ("D", 0, "x", "Uninterruptible"),
        ("T", 0, "x", "Stopped"),
        ("t", 0, "x", "Traced"),
        ("Z", 0, "0", "Exiting"),
        ("S", 0x4, "x", "Exiting"),
        ("S", 0x10, "io_wqe_worker", "KernelWorker"),
        ("S", 0x4000, "vhost_task_fn", "KernelWorker"),
        ("S", 0x200000, "x", "KernelWorker"),
        ("S", 0, "seccomp_do_user_notification.isra.0", "SeccompNotification"),
        ("S", 0, "do_freezer_trap", "Frozen"),
        ("S", 0, "get_signal", "Frozen"),
    ],
)
def test_threads_that_are_left_alone(state: str, flags: int, channel: str, reason: str) -> None:
    """Each with the reason that is counted."""
    seen = judge(7, stat(state, flags), line("poll"), channel, NAMES)
    assert isinstance(seen, Unsuitable)
    assert seen.reason == reason


def test_running_thread_is_the_last_choice() -> None:
    """It has no call to restart, but may be about to enter one."""
    running = judge(7, stat("R"), "running\n", "0", NAMES)
    assert running == Candidate(7, Suitability.RUNNING, "running")


@pytest.mark.parametrize(
    ("channel", "first", "name"),
    [
        ("poll_schedule_timeout.constprop.0", 0x7FFC0, "poll"),
        ("futex_do_wait", 0x7FFC0, "futex"),
        ("hrtimer_nanosleep", 0x7FFC0, "nanosleep"),
        ("do_syscall_64", 0x7FFC0, "nanosleep"),
        ("do_syscall_64", 1, "clock_nanosleep"),
    ],
)
def test_call_taken_up_again_is_known_by_its_own_name(channel: str, first: int, name: str) -> None:
    """A second visit finds restart_syscall, which a signal frame cannot bring back."""
    seen = judge(7, stat(), line("restart_syscall", first, 128), channel, NAMES)
    assert isinstance(seen, Candidate)
    assert seen.blocked_in == name


@pytest.mark.parametrize(("channel", "first"), [("0", 1), ("", 1), ("do_syscall_64", 0xFFFF_FFFA)])
def test_call_that_cannot_be_named_is_left_alone(channel: str, first: int) -> None:
    """Making a guessed call again would be worse than coming back later."""
    seen = judge(7, stat(), line("restart_syscall", first), channel, NAMES)
    assert isinstance(seen, Unsuitable)


def test_order_of_choice() -> None:
    """Made again without a trace first, legal outcomes next, the program's own code last."""
    leader = Process(7, 1)
    ordered = [
        Candidate(7, Suitability.RESTARTABLE, "read"),
        Candidate(9, Suitability.RESTARTABLE, "wait4"),
        Candidate(7, Suitability.RESTARTABLE, "rt_sigtimedwait"),
        Candidate(7, Suitability.ZERO_IS_LEGAL, "futex"),
        Candidate(9, Suitability.ZERO_IS_LEGAL, "futex"),
        Candidate(7, Suitability.ZERO_IS_LEGAL, "epoll_wait"),
        Candidate(7, Suitability.RUNNING, "running"),
    ]
    turned = ordered[::-1]
    turned.sort(key=lambda seen: preference(seen, leader))
    assert turned == ordered


def test_a_main_thread_on_another_stack_comes_last() -> None:
    """It is let go again, and a runtime has become the container's program by then."""
    leader = Process(7, 1)
    other = Candidate(8, Suitability.ZERO_IS_LEGAL, "futex")
    main = Candidate(7, Suitability.RESTARTABLE, "openat", off_stack=True)
    assert min((main, other), key=lambda seen: preference(seen, leader)) is other
    waits = replace(main, suitability=Suitability.ZERO_IS_LEGAL)
    assert min((waits, other), key=lambda seen: preference(seen, leader)) is waits


@pytest.mark.parametrize(
    ("syscall", "off"),
    [
        ("257 0x0 0x0 0x0 0x0 0x0 0x0 0x7ffc00001000 0x4a1000\n", False),
        ("257 0x0 0x0 0x0 0x0 0x0 0x0 0xc000012345 0x4a1000\n", True),
        ("-1 0xc000012345 0x4a1000\n", True),
        ("running\n", False),
        ("", False),
    ],
)
def test_where_a_main_thread_runs(syscall: str, *, off: bool) -> None:
    """Go's goroutines are on the heap, far from the stack that the kernel made."""
    assert is_off_stack(syscall, replace(stat(), start_stack=0x7FFC00002000)) is off
    assert not is_off_stack(syscall, stat()), "it is not told"


@pytest.mark.parametrize("text", ["", "-1 0x7ffc 0x7f00\n", "99999 0x0\n"])
def test_unknown_states_are_left_alone(text: str) -> None:
    """What is not known to be harmless is not done."""
    assert isinstance(judge(7, stat(), text, "x", NAMES), Unsuitable)
