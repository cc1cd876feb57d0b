"""A visit and the signals of its target: none is lost, none ends a call that it must not."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from kernel.blocking_calls import CASES, read_outcome
from kernel.calls import get_merge
from kernel.conftest import Start
from kernel.test_remote import turn
from ksm_operator.kernel import Postponed, ProcessGone, Tracer
from ksm_operator.kernel.enrol import set_merge
from support import kernel

pytestmark = pytest.mark.alone


@pytest.mark.parametrize("name", ["ppoll_endless", "epoll_pwait_endless", "read", "nanosleep"])
def test_handler_still_ends_a_call(name: str, blocking: Path, start: Start, tracer: Tracer) -> None:
    """A program that waits to be woken by a signal would hang if we took its EINTR away."""
    case = next(case for case in CASES if case.name == name)
    target = start(str(blocking), name, "interruptible")
    assert target.reaches_syscall(case.call)
    stop = threading.Event()

    def visits() -> None:
        while not stop.is_set():
            with contextlib.suppress(Postponed, ProcessGone):
                tracer.call(target.process, [get_merge()])

    visitor = threading.Thread(target=visits)
    visitor.start()
    try:
        target.popen.send_signal(signal.SIGUSR1)
        outcome = read_outcome(target.line())
    finally:
        stop.set()
        visitor.join()
    assert outcome.answer[:2] == (-1, 4)


@pytest.mark.parametrize("name", ["semop", "epoll_pwait", "epoll_pwait_endless", "read"])
def test_ignored_signal_ends_no_call(
    name: str, blocking: Path, start: Start, tracer: Tracer
) -> None:
    """A child that ends during a visit sends a signal that nobody handles, and nobody may see."""
    case = next(case for case in CASES if case.name == name)
    target = start(str(blocking), name)
    over = threading.Event()

    def signals() -> None:
        while not over.wait(0.0005):
            # Not by Popen: it waits for its child first, and would take the tracer's stops away.
            os.kill(target.pid, signal.SIGCHLD)

    sender = threading.Thread(target=signals)
    sender.start()
    arrived = 0
    try:
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            try:
                tracer.call(target.process, [get_merge()])
            except Postponed:
                arrived += 1
            except ProcessGone:
                break
    finally:
        over.set()
        sender.join()
    outcome = read_outcome(target.line())
    assert (outcome.answer, outcome.state) == (case.answer, "whole")
    print(arrived, "visits postponed")


def test_all_signals_arrive_during_visits(start: Start, tracer: Tracer) -> None:
    """A signal that comes while we hold the target is delivered, not lost."""
    # It waits in read(), not in pause(): one that comes just before pause() would be handled only
    # after the next, whoever looks on.
    target = start(
        code="""
import os, signal
count = 0
def handler(number, frame):
    global count
    count += 1
    print(count, flush=True)
here, there = os.pipe()
os.set_blocking(there, False)
signal.set_wakeup_fd(there)
signal.signal(signal.SIGUSR1, handler)
print("ready", flush=True)
while True:
    os.read(here, 1)
"""
    )
    for number in range(1, 101):
        target.popen.send_signal(10)
        turn(tracer, target, on=bool(number % 2))
        assert target.line() == str(number)


def test_timer_signals_at_high_rate_do_not_starve_a_visit(start: Start, tracer: Tracer) -> None:
    """A profiler's timer must not make a process impossible to enrol, nor lose ticks to us."""
    target = start(
        code="""
import signal, time
ticks = 0
def handler(number, frame):
    global ticks
    ticks += 1
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
print("ready", flush=True)
end = time.monotonic() + 1
while time.monotonic() < end:
    time.sleep(0.1)
print(ticks)
"""
    )
    done = 0
    for number in range(20):
        try:
            visit = tracer.call(target.process, [set_merge(on=number % 2 == 0)])
        except Postponed as error:
            assert error.reason in {"SignalArrived", "Interrupted", "Busy"}  # noqa: PT017 - it may pass
            continue
        assert visit.results == (0,)
        assert kernel.merge_any(target.pid) == (number % 2 == 0)
        done += 1
    assert done >= 15
    assert int(target.line()) > 100
