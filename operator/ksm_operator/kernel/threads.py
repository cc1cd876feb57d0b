"""Choosing the thread that makes a call for us, from what /proc says before anything is touched."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.blocking import (
    ALWAYS_EINTR,
    Suitability,
    resumed_call,
    suitability,
)
from ksm_operator.kernel.errors import KernelError, Postponed, ProcessGone
from ksm_operator.kernel.procfs import PROC, Process, Stat, read_file, read_stat, threads

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

MOST_THREADS: Final = 256
"""Threads looked at in one process; those at the front serve as well as any other."""

ENOUGH: Final = 16
"""Waiting threads among which the best is taken."""

MOST_ARGUMENTS: Final = 6
"""Of a system call, which is how many the kernel prints of every one."""

MOST_STACK_BYTES: Final = 1 << 30
"""No main thread's own stack reaches down further."""

SAMPLES: Final = 16
"""Looks in a row in which a thread has to be seen running."""

MOST_SAMPLES: Final = 64
"""Looks at a process whose threads run, and wait in calls that must not be interrupted, in turn."""

SAMPLE_PAUSE_SECONDS: Final = 0.0005

MOMENT_SECONDS: Final = 0.25
MOMENT_PAUSE_SECONDS: Final = 0.0002
"""How long, and how often, a chosen thread is looked at for the moment to interrupt it."""

BUSY: Final = "BusyInSyscall"

STATES_NEVER: Final = {
    "D": "Uninterruptible",
    "T": "Stopped",
    "t": "Traced",
    "Z": "Exiting",
    "X": "Exiting",
    "I": "KernelWorker",
}

WAIT_CHANNELS_NEVER: Final = {
    # The supervisor would be asked the same question twice.
    "seccomp_do_user_notification": "SeccompNotification",
    "do_freezer_trap": "Frozen",
    # Compilers put the former into it; whatever else waits there is in state T (kernel/signal.c).
    "get_signal": "Frozen",
    "__refrigerator": "Frozen",
}


STOPPED: Final = frozenset({"Stopped", "Traced", "Exiting"})
"""It makes no way, so that nothing is cut short; what has stopped it is told by ptrace."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A thread that could make a call.

    Attributes:
        tid: its thread id.
        suitability: how well it serves.
        blocked_in: name of the system call that it waits in, `running` if it does not wait.
        off_stack: it is the main thread and runs on another stack than the kernel made for it, as
            in a runtime with stacks of its own: most likely it has no way back by itself.
    """

    tid: int
    suitability: Suitability
    blocked_in: str
    off_stack: bool = False


@dataclass(frozen=True, slots=True)
class Unsuitable:
    """A thread that cannot.

    Attributes:
        reason: one PascalCase word.
        detail: what was seen, for a person.
    """

    reason: str
    detail: str


def parse_syscall(text: str) -> tuple[int, tuple[int, ...]] | None:
    """/proc/TID/syscall, proc(5): number and arguments; None while running; -1 outside a call.

    Raises:
        ValueError: the line is not of that form.
    """
    words = text.split()
    if words == ["running"]:
        return None
    if not words:
        raise ValueError("empty")
    number, arguments = int(words[0]), tuple(int(word, 16) for word in words[1:7])
    if number >= 0 and len(arguments) < MOST_ARGUMENTS:
        raise ValueError(f"{len(arguments)} arguments")
    return number, arguments


def judge(
    tid: int, stat: Stat, syscall: str, wait_channel: str, names: Mapping[int, str]
) -> Candidate | Unsuitable:
    """Whether a thread in this state can make a call for us; `names` are the machine's calls."""
    return _barred(stat, wait_channel) or _judge_call(tid, syscall, wait_channel, names)


def _barred(stat: Stat, wait_channel: str) -> Unsuitable | None:
    if stat.is_kernel_worker or stat.is_kernel_thread:
        return Unsuitable("KernelWorker", stat.comm)
    if stat.is_zombie:
        return Unsuitable("Exiting", stat.comm)
    if stat.state in STATES_NEVER:
        return Unsuitable(STATES_NEVER[stat.state], f"state {stat.state}")
    for channel, reason in WAIT_CHANNELS_NEVER.items():
        if wait_channel.startswith(channel):
            return Unsuitable(reason, wait_channel)
    return None


def _judge_call(
    tid: int, syscall: str, wait_channel: str, names: Mapping[int, str]
) -> Candidate | Unsuitable:
    try:
        present = parse_syscall(syscall)
    except ValueError:
        return Unsuitable("UnknownState", syscall.strip())
    if present is None:
        return Candidate(tid, Suitability.RUNNING, "running")
    number, arguments = present
    name = names.get(number)
    if name == "restart_syscall":
        name = resumed_call(wait_channel, arguments)
    found = suitability(name, arguments)
    if found is Suitability.NEVER:
        return Unsuitable(BUSY, name or f"system call {number}")
    assert name is not None
    return Candidate(tid, found, name)


def _look(
    process: Process, tid: int, names: Mapping[int, str], proc: Path
) -> Candidate | Unsuitable:
    base = f"{proc}/{process.pid}/task/{tid}"
    try:
        stat = read_stat(process.pid, tid, proc=proc)
        syscall = read_file(f"{base}/syscall", process.pid).decode()
        channel = read_file(f"{base}/wchan", process.pid).decode()
    except ProcessGone:
        return Unsuitable("Exiting", f"thread {tid}")
    except KernelError as error:
        return Unsuitable("NotReadable", str(error))
    seen = judge(tid, stat, syscall, channel, names)
    if isinstance(seen, Candidate) and tid == process.pid and is_off_stack(syscall, stat):
        return replace(seen, off_stack=True)
    return seen


def is_off_stack(syscall: str, stat: Stat) -> bool:
    """Whether a main thread that waits runs on another stack than its program began on.

    Args:
        syscall: /proc/TID/syscall, whose last words are the stack pointer and the address of code.
        stat: of the thread.
    """
    words = syscall.split()
    if len(words) < 2 or not stat.start_stack:  # noqa: PLR2004 - it runs
        return False
    try:
        below = stat.start_stack - int(words[-2], 16)
    except ValueError:
        return False
    return not 0 <= below < MOST_STACK_BYTES


def wait_for_moment(
    process: Process, candidate: Candidate, names: Mapping[int, str], *, proc: Path = PROC
) -> Candidate | None:
    """Wait until a chosen thread may be interrupted: it has gone on since, maybe into a transfer.

    Args:
        process: whose thread.
        candidate: as it was when it was chosen.
        names: the machine's system calls by number.
        proc: the proc file system.

    Returns:
        The thread as it is now. Where it is stopped, which hides that, as it was, or with no name
        for its call if it has gone on since. None if the moment did not come.
    """
    deadline = time.monotonic() + MOMENT_SECONDS
    as_chosen = True
    running = SAMPLES if candidate.suitability is Suitability.RUNNING else 0
    while True:
        seen = _look(process, candidate.tid, names, proc)
        if isinstance(seen, Unsuitable):
            if seen.reason in STOPPED:
                return candidate if as_chosen else replace(candidate, blocked_in="")
            running = 0
        elif seen.suitability is not Suitability.RUNNING:
            return seen
        else:
            running += 1
            if running >= SAMPLES:
                return seen
        as_chosen = False
        if time.monotonic() > deadline:
            return None
        time.sleep(MOMENT_PAUSE_SECONDS)


@dataclass(frozen=True, slots=True)
class _Survey:
    """One look at every thread: who waits where it can be interrupted, who runs, who refused."""

    waiting: list[Candidate]
    running: list[Candidate]
    refusal: Unsuitable | None


def _survey(process: Process, names: Mapping[int, str], proc: Path) -> _Survey:
    survey = _Survey([], [], None)
    refusal: Unsuitable | None = None
    for tid in threads(process.pid, proc=proc)[:MOST_THREADS]:
        seen = _look(process, tid, names, proc)
        if isinstance(seen, Unsuitable):
            refusal = seen if refusal is None or refusal.reason == "Exiting" else refusal
        elif seen.suitability is Suitability.RUNNING:
            survey.running.append(seen)
        else:
            survey.waiting.append(seen)
            if len(survey.waiting) == ENOUGH:
                break
    return _Survey(survey.waiting, survey.running, refusal)


def preference(candidate: Candidate, process: Process) -> tuple[bool, int, bool, bool]:
    """The order in which threads are tried, smallest first.

    A thread whose call is simply made again before one that may see a 0 in the end; one that never
    sees EINTR before one that does if we die right after the stop; and the main thread before the
    others, because its stack is known for one. Last of all one that will most likely be let go
    again, because it has no way back and its call must not answer 0: by then a container's runtime
    may have become its program.
    """
    sees_eintr = candidate.blocked_in in ALWAYS_EINTR
    in_vain = candidate.off_stack and candidate.suitability is not Suitability.ZERO_IS_LEGAL
    return in_vain, candidate.suitability, sees_eintr, candidate.tid != process.pid


def _in_order(candidates: list[Candidate], process: Process) -> list[Candidate]:
    return sorted(candidates, key=lambda candidate: preference(candidate, process))


def waiting_threads(
    process: Process, names: Mapping[int, str], *, proc: Path = PROC
) -> list[Candidate]:
    """Threads that wait in a call that can be made again, the best first; empty if there is none.

    Args:
        process: whose threads.
        names: the machine's system calls by number.
        proc: the proc file system.

    Raises:
        ProcessGone: the process exited.
    """
    return _in_order(_survey(process, names, proc).waiting, process)


def running_threads(
    process: Process,
    names: Mapping[int, str],
    *,
    passed_over: Collection[int] = (),
    proc: Path = PROC,
) -> list[Candidate]:
    """Threads that run, for when none waits that would do; or one that has begun to wait since.

    A thread seen running may be on its way into a bulk transfer, so it is only taken after several
    looks in a row saw it running.

    Args:
        process: whose threads.
        names: the machine's system calls by number.
        passed_over: waiting threads that were tried and would not do.
        proc: the proc file system.

    Raises:
        ProcessGone: the process exited.
        Postponed: no thread can make a call at this moment; the reason is that of the first one.
    """
    looks: dict[int, int] = {}
    survey = _Survey([], [], None)
    for sample in range(MOST_SAMPLES):
        if sample:
            time.sleep(SAMPLE_PAUSE_SECONDS)
        survey = _survey(process, names, proc)
        waiting = [seen for seen in survey.waiting if seen.tid not in passed_over]
        if waiting:
            return _in_order(waiting, process)
        looks = {seen.tid: looks.get(seen.tid, 0) + 1 for seen in survey.running}
        steady = [seen for seen in survey.running if looks[seen.tid] >= SAMPLES]
        if steady:
            return steady
        is_busy = survey.refusal is not None and survey.refusal.reason == BUSY
        if not looks and not is_busy:
            break
    if survey.refusal is not None:
        raise Postponed(process.pid, survey.refusal.reason, survey.refusal.detail)
    if survey.running or survey.waiting:
        raise Postponed(process.pid, "Busy", "its threads run and wait in turn")
    raise ProcessGone(process.pid)
