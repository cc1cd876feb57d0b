"""Remote calls on aarch64: whatever a thread waits in ends as if we had never come."""

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from kernel.calls import get_merge
from kernel.conftest import Target, wait_until
from ksm_operator.kernel import Postponed, ProcessGone, Tracer, find_process, release
from ksm_operator.kernel.aarch64 import NAMES
from ksm_operator.kernel.enrol import AlreadyMergeable, Enrolled, enrol, set_merge
from support import kernel

HERE = Path(__file__).parent
LEAST_MS = 690
VISITS = 300


class Wait(NamedTuple):
    """One case of waiting.c.

    Attributes:
        name: argument of the program.
        call: the system call that it waits in.
        answer: result and errno.
    """

    name: str
    call: str
    answer: tuple[int, int]


WAITS = [
    Wait("nanosleep", "nanosleep", (0, 0)),
    Wait("clock_nanosleep", "clock_nanosleep", (0, 0)),
    Wait("clock_nanosleep_absolute", "clock_nanosleep", (0, 0)),
    Wait("futex", "futex", (-1, 110)),
    Wait("futex_absolute", "futex", (-1, 110)),
    Wait("ppoll", "ppoll", (0, 0)),
    Wait("ppoll_mask", "ppoll", (0, 0)),
    Wait("ppoll_endless", "ppoll", (1, 0)),
    Wait("pselect6", "pselect6", (0, 0)),
    Wait("epoll_pwait", "epoll_pwait", (0, 0)),
    Wait("epoll_pwait2", "epoll_pwait2", (0, 0)),
    Wait("io_getevents", "io_getevents", (0, 0)),
    Wait("read", "read", (10, 0)),
    Wait("timerfd", "read", (8, 0)),
    Wait("recvfrom", "recvfrom", (-1, 11)),
    Wait("read_timeout", "read", (-1, 11)),
    Wait("accept", "accept", (-1, 11)),
    Wait("wait4", "wait4", (1, 0)),
    Wait("waitid", "waitid", (0, 0)),
    Wait("rt_sigtimedwait", "rt_sigtimedwait", (-1, 11)),
    Wait("semtimedop", "semtimedop", (-1, 11)),
]


class Outcome(NamedTuple):
    """What the program said of its wait."""

    answer: tuple[int, int]
    elapsed_ms: int
    state: str


Begin = Callable[..., Target]


@pytest.fixture(scope="session")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C program that waits in a system call of one's choice."""
    program = tmp_path_factory.mktemp("c") / "waiting"
    compiler = shutil.which("cc") or "cc"
    subprocess.run([compiler, "-O2", "-o", str(program), str(HERE / "waiting.c")], check=True)
    return program


@pytest.fixture
def begin(ksm: None, waiting: Path) -> Iterator[Begin]:
    """Start the program; it is ended with the test."""
    targets: list[Target] = []

    def start(*words: str) -> Target:
        popen = subprocess.Popen(
            [str(waiting), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        target = Target(popen)
        targets.append(target)
        assert target.line() == "ready"
        return target

    yield start
    for target in targets:
        target.kill()


@pytest.fixture
def tracer(ksm: None) -> Iterator[Tracer]:
    """What makes processes run system calls."""
    made = Tracer()
    yield made
    made.close()


def until_in(target: Target, call: str) -> None:
    """Until it waits in this call."""
    file = Path(f"/proc/{target.pid}/syscall")
    wait_until(
        lambda: (word := file.read_text().split()[0]).isdigit() and NAMES.get(int(word)) == call,
        f"{target.pid} in {call}",
    )


def outcome(target: Target) -> Outcome:
    """How its wait ended."""
    *numbers, state = target.line().split()
    result, error, elapsed = map(int, numbers)
    return Outcome((result, error), elapsed, state)


@pytest.mark.parametrize("wait", WAITS, ids=[wait.name for wait in WAITS])
def test_wait_ends_as_ever(wait: Wait, begin: Begin, tracer: Tracer) -> None:
    """Return value, errno, time and registers are those of a wait that nobody disturbed."""
    undisturbed, visited = begin(wait.name), begin(wait.name)
    until_in(visited, wait.call)
    seen = tracer.call(visited.process, [get_merge(), set_merge(on=True), get_merge()])
    assert (seen.results, seen.caught_in, seen.safeguard) == (
        (0, 0, 1),
        wait.call,
        "SignalFrame",
    )
    ended = outcome(visited)
    print(f"{wait.name}: {seen.stopped_ns // 1000} us stopped, {ended}")
    assert (ended.answer, ended.state) == (wait.answer, "whole")
    assert ended.elapsed_ms >= LEAST_MS
    assert outcome(undisturbed).answer == wait.answer


def test_sleep_that_was_visited_twice_goes_on(begin: Begin, tracer: Tracer) -> None:
    """It waits in restart_syscall then, whose rest of the time only the kernel knows."""
    target = begin("clock_nanosleep")
    until_in(target, "clock_nanosleep")
    tracer.call(target.process, [get_merge()])
    until_in(target, "restart_syscall")
    assert tracer.call(target.process, [get_merge()]).caught_in == "clock_nanosleep"
    assert outcome(target)[::2] == ((0, 0), "whole")


def test_computing_thread_keeps_its_registers(begin: Begin, tracer: Tracer) -> None:
    """User code has no call to go by: it is sent through the vdso and comes back whole."""
    target = begin("spin")
    caught = set()
    for _ in range(20):
        with contextlib.suppress(Postponed, ProcessGone):
            caught.add(tracer.call(target.process, [get_merge(), get_merge()]).caught_in)
    assert "user code" in caught
    assert outcome(target)[::2] == ((0, 0), "whole")


def test_foreign_stack_is_left_alone(begin: Begin, tracer: Tracer) -> None:
    """Below a stack that nobody knows for one there may be heap: only a sleep serves there."""
    reader, sleeper = begin("read", "foreign"), begin("nanosleep", "foreign")
    until_in(reader, "read")
    until_in(sleeper, "nanosleep")
    with pytest.raises(Postponed) as caught:
        tracer.call(reader.process, [get_merge()])
    assert caught.value.reason == "NoSafeReturn"
    assert tracer.call(sleeper.process, [get_merge(), get_merge()]).safeguard == "LegalOutcome"
    assert outcome(reader)[::2] == ((10, 0), "whole")
    assert outcome(sleeper)[::2] == ((0, 0), "whole")


@pytest.mark.parametrize("name", ["ppoll_endless", "nanosleep", "read", "epoll_pwait"])
def test_handler_still_ends_a_call(name: str, begin: Begin, tracer: Tracer) -> None:
    """A program that waits to be woken by a signal would hang if we took its EINTR away."""
    target = begin(name)
    until_in(target, next(wait.call for wait in WAITS if wait.name == name))
    stop = threading.Event()

    def visits() -> None:
        while not stop.is_set():
            with contextlib.suppress(Exception):
                tracer.call(target.process, [get_merge()])

    visitor = threading.Thread(target=visits)
    visitor.start()
    try:
        os.kill(target.pid, signal.SIGUSR1)
        ended = outcome(target)
    finally:
        stop.set()
        visitor.join()
    assert ended.answer == (-1, 4)


def test_population_checks_itself(begin: Begin, tracer: Tracer) -> None:
    """Hundreds of visits over every kind of wait: nobody ends otherwise than alone."""
    visits = 0
    while visits < VISITS:
        population = [(wait, begin(wait.name)) for wait in WAITS[::2]]
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            for _, target in population:
                with contextlib.suppress(Postponed, ProcessGone):
                    tracer.call(target.process, [set_merge(on=visits % 2 == 0)])
                    visits += 1
        for wait, target in population:
            ended = outcome(target)
            assert (ended.answer, ended.state) == (wait.answer, "whole"), wait
    print(visits, "visits")


MERGING = """
import mmap, sys
area = mmap.mmap(-1, 4 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area[:] = b"x" * len(area)
print("ready", flush=True)
sys.stdin.read()
assert bytes(area) == b"x" * len(area)
"""


def test_pages_of_an_enrolled_process_merge(ksm: None, tracer: Tracer) -> None:
    """The end of it all: a process that knew nothing of us shares its pages, and stops to."""
    popen = subprocess.Popen(
        ["/usr/bin/python3", "-c", MERGING],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    target = Target(popen)
    try:
        with kernel.settings_put_back():
            assert target.line() == "ready"
            for name, value in (("pages_to_scan", 20000), ("sleep_millisecs", 5), ("run", 1)):
                kernel.write_setting(name, value)
            process = find_process(target.pid)
            assert isinstance(enrol(process, tracer), Enrolled)
            assert isinstance(enrol(process, tracer), AlreadyMergeable)
            wait_until(lambda: kernel.merged_pages(target.pid) > 200, "merged")
            release(process, tracer, lambda: 1 << 30)
            assert tracer.call(process, [get_merge()]).results == (0,)
            wait_until(lambda: kernel.merged_pages(target.pid) == 0, "released")
        target.close_input()
        assert popen.wait(10) == 0
    finally:
        target.kill()
