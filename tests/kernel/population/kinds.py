"""The kinds of programs: how each is started, and how its end is judged."""

import errno
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from kernel.blocking_calls import CASES, LEAST_MS, Case, read_outcome
from kernel.population.build import Programs

STOP = "{stop}"
"""Stands for the file that ends a program, in its arguments."""

EINTR = (-1, 4, 0)

RESTARTED = {
    *("read", "readv", "eventfd", "timerfd", "recvfrom", "recvmsg", "accept", "connect"),
    *("wait4", "waitid", "flock", "fcntl", "openat", "futex_endless", "futex_waitv"),
    *("mq_timedreceive", "mq_timedsend"),
}
"""Cases that go on after a handler with SA_RESTART; signal(7), and futex without a time limit."""

ALWAYS_RESTARTED = {"mutex", "futex_pi"}
"""And after any handler."""


WOKEN_AWAY = {"futex_endless": (-1, errno.EAGAIN, 1)}
"""What a case may answer whose wake-up came while its thread was away.

The wait begins anew and finds the word changed, as after SIGCONT; futex(2) has callers look at it.
"""


@dataclass(frozen=True)
class Kind:
    """Programs of one kind.

    Attributes:
        name: unique.
        commands: its variants; each one started takes the next.
        judge: given what a program printed and its exit status, says what deviated, or None.
        caught_in: the call that an injection must have been caught in to count; None for any.
        has_children: they are targets as well.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    judge: Callable[[tuple[str, ...], list[str], int], str | None]
    caught_in: str | None = None
    has_children: bool = False


def judge_workload(_: tuple[str, ...], lines: list[str], status: int) -> str | None:
    """A program that looks after itself says `whole` at the end."""
    if status == 0 and len(lines) > 1 and lines[-1].startswith("whole "):
        return None
    return f"status {status}: {' / '.join(lines[-3:])}"


def judge_call(case: Case, command: tuple[str, ...], lines: list[str], status: int) -> str | None:
    """One call ends as it does where nobody visits.

    EINTR is an answer only if a handler of the program has run, and only where signal(7) says so.
    """
    signals = command[2] if len(command) > 2 else "none"
    what = f"signals: {signals}, status {status}: {' / '.join(lines)}"
    if status != 0 or len(lines) != 2:
        return what
    outcome = read_outcome(lines[1])
    restarts = case.name in ALWAYS_RESTARTED or (signals == "restart" and case.name in RESTARTED)
    if outcome.state != "whole":
        return what
    answers = (case.answer, WOKEN_AWAY.get(case.name))
    if outcome.answer in answers and outcome.elapsed_ms >= LEAST_MS:
        return None
    # Made to end by a signal: pause and rt_sigsuspend answer so to the alarm that they wait for.
    if outcome.answer == EINTR and outcome.handled and not restarts:
        return None
    return what


def call_kinds(programs: Programs) -> list[Kind]:
    """Every blocking call: without signals, with a handler, with SA_RESTART; static and not."""
    kinds = []
    for case in CASES:
        commands = tuple(
            (str(programs.folder / f"blocking{static}"), case.name, *signals)
            for signals, static in (
                ((), ""),
                (("restart",), "-static"),
                ((), "-static"),
                (("interrupt",), ""),
            )
        )
        kinds.append(Kind(case.name, commands, partial(judge_call, case), caught_in=case.call))
    return kinds


FAMILIES = ("epoll", "bulk", "forks", "vfork", "signals")
ALONE = ("self-pipe", "timers", "exec", "threads", "busy")


def c_kinds(programs: Programs) -> list[Kind]:
    """The workloads of workloads.c, each dynamic and static."""
    kinds = []
    for name in (*FAMILIES, *ALONE):
        commands = tuple(
            (str(programs.folder / f"workloads{static}"), name, STOP) for static in ("", "-static")
        )
        kinds.append(Kind(f"c {name}", commands, judge_workload, has_children=name in FAMILIES))
    return kinds


def runtime_kinds(programs: Programs) -> list[Kind]:
    """Programs of Go, Java, Node and Python."""
    commands: dict[str, tuple[str, ...]] = {
        f"go {name}": (str(programs.folder / "go-workload"), name, STOP)
        for name in ("idle", "ticking", "busy", "http")
    }
    commands["java"] = (programs.java, "-Xmx64m", "-cp", str(programs.folder), "Workload", STOP)
    commands["node"] = (programs.node, str(programs.scripts / "workload.js"), STOP)
    for name in ("threads", "streams"):
        commands[f"python {name}"] = ("python3", str(programs.scripts / f"{name}.py"), STOP)
    return [Kind(name, (command,), judge_workload) for name, command in commands.items()]
