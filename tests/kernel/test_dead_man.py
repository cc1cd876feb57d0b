"""The agent is killed in the middle of a visit: the target goes on as if nothing had been."""

import mmap
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from kernel.blocking_calls import CASES, LEAST_MS, Case, read_outcome
from kernel.calls import get_merge
from kernel.conftest import Start, Target, wait_until
from kernel.outer_tracer import Death, visit_and_die
from ksm_operator.kernel import Postponed, Syscall, Tracer, ptrace
from ksm_operator.kernel.enrol import set_merge
from support import kernel

pytestmark = pytest.mark.alone

ARGUMENTS = {
    "x86_64": {"rdi", "rsi", "rdx", "r10", "r8", "r9"},
    "aarch64": {"x1", "x2", "x3", "x4", "x5"},
}[platform.machine()]
SLACK_MS = 30000
EINTR = (-1, 4, 0)
LEAST_DEATHS = 10
MOST_FAILURES = 10

SEES_EINTR = {
    *("epoll_wait", "epoll_pwait", "epoll_pwait2", "io_getevents", "io_uring_enter"),
    *("epoll_wait_endless", "epoll_pwait_endless", "epoll_pwait2_endless"),
    *("io_getevents_endless", "io_uring_enter_endless"),
    *("recv_timeout", "read_timeout", "accept_timeout", "connect_timeout"),
    *("rt_sigtimedwait", "rt_sigtimedwait_endless", "semtimedop", "semop"),
}
"""The kernel itself ends these with EINTR at the stop. A visitor that dies before it has looked at
the registers leaves it at that: signal(7) names them, and a program must expect it."""


class Ended(NamedTuple):
    """One target that outlived its visitor."""

    death: Death
    target: Target


def check(case: Case, ended: Ended) -> None:
    """It ended as it would have ended."""
    outcome = read_outcome(ended.target.line())
    where = f"killed after {len(ended.death.requests)} requests: {outcome}"
    assert outcome.state == "whole", where
    if outcome.answer == EINTR and case.name in SEES_EINTR:
        assert ptrace.PTRACE_INTERRUPT in ended.death.requests, where
        assert not ended.death.registers_were_touched, where
    else:
        assert outcome.answer == case.answer, where
        assert LEAST_MS <= outcome.elapsed_ms < LEAST_MS + SLACK_MS, where
    assert ended.target.popen.wait(10) == 0, where


Begin = Callable[[], Target]


def die_everywhere(begin: Begin, calls: Sequence[Syscall]) -> Iterator[Ended]:
    """One target after the other, whose visitor dies after one request more each time."""
    requests = failures = 0
    finished = False
    while not finished:
        target = begin()
        death = visit_and_die(target.process, calls, requests + 1)
        if death.failed:
            # On a busy machine the target's wait may be over before the visit begins.
            failures += 1
            assert failures < MOST_FAILURES, death
            target.kill()
            continue
        requests += 1
        finished = death.finished
        yield Ended(death, target)
    assert requests > LEAST_DEATHS


@pytest.fixture
def begin(blocking: Path, start: Start) -> Callable[[str, str], Target]:
    """Start a case and wait until it is in its call."""

    def blocked(name: str, call: str) -> Target:
        while not (target := start(str(blocking), name)).reaches_syscall(call):
            pass
        return target

    return blocked


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_call_ends_as_if_nobody_had_died(case: Case, begin: Callable[[str, str], Target]) -> None:
    """Killed at the exit of every single call of a visit; the target's own call ends as ever."""
    ended = list(die_everywhere(lambda: begin(case.name, case.call), [set_merge(on=True)]))
    for one in ended:
        check(case, one)
    print(f"{case.name}: visitor killed after each of {len(ended) - 1} requests")


def test_user_code_keeps_every_register(blocking: Path, start: Start, tmp_path: Path) -> None:
    """A thread that was computing has all its general and vector registers, flags and red zone."""
    path = tmp_path / "flag"
    path.write_bytes(bytes(4096))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 4096) as flag:

        def spin() -> Target:
            flag[0] = 0
            target = start(str(blocking), "known", str(path))
            target.wait_for_state("R")
            return target

        for one in die_everywhere(spin, [set_merge(on=True)]):
            flag[0] = 1
            outcome = read_outcome(one.target.line())
            assert (outcome.answer, outcome.state) == ((0, 0, 0), "whole"), one.death
            assert one.target.popen.wait(10) == 0


def test_several_calls_in_one_visit(begin: Callable[[str, str], Target]) -> None:
    """Between two calls the way back is still prepared."""
    case = next(case for case in CASES if case.name == "read")
    calls = [get_merge(), set_merge(on=True), get_merge()]
    for one in list(die_everywhere(lambda: begin(case.name, case.call), calls)):
        check(case, one)


def test_the_target_makes_our_call_by_itself(begin: Callable[[str, str], Target]) -> None:
    """What it runs on its way back is our call: it is enrolled, and nothing else happened."""
    counted = visit_and_die(begin("read", "read").process, [get_merge()], None)
    # The first lets it go on to the entry of a call, the second to the exit of ours.
    steps = [at for at, code in enumerate(counted.requests) if code == ptrace.PTRACE_SYSCALL]
    target = begin("read", "read")
    death = visit_and_die(target.process, [set_merge(on=True)], steps[1] + 1)
    assert not death.finished
    wait_until(lambda: kernel.merge_any(target.pid) is True, "the call made by the target alone")
    assert read_outcome(target.line()).answer == (10, 0, 1027)


def below_stack(target: Target) -> tuple[int, bytes]:
    """The memory that a frame would be written to."""
    file = Path(f"/proc/{target.pid}/syscall")
    # Right after a visit it is on its way back into its call.
    wait_until(lambda: file.read_text() != "running\n", "the target in its call")
    stack_pointer = int(file.read_text().split()[7], 16)
    with Path(f"/proc/{target.pid}/mem").open("rb", buffering=0) as memory:
        return stack_pointer, os.pread(memory.fileno(), 8192, stack_pointer - 8192)


def test_stack_of_a_runtime_is_not_written_to(
    begin: Callable[[str, str], Target], tracer: Tracer
) -> None:
    """Below a goroutine's or fiber's stack lies heap: no frame, so such a read is left alone."""
    target = begin("foreign_read", "read")
    before = below_stack(target)
    with pytest.raises(Postponed) as caught:
        tracer.call(target.process, [get_merge()])
    assert caught.value.reason == "NoSafeReturn"
    assert below_stack(target) == before
    outcome = read_outcome(target.line())
    assert (outcome.answer, outcome.state) == ((10, 0, 1027), "whole")


def test_sleep_on_a_stack_of_a_runtime_is_used_without_a_frame(
    begin: Callable[[str, str], Target], tracer: Tracer
) -> None:
    """Where nothing may be written, a call that may answer 0 serves."""
    target = begin("foreign_nanosleep", "nanosleep")
    before = below_stack(target)
    assert tracer.call(target.process, [get_merge()]).safeguard == "LegalOutcome"
    assert below_stack(target) == before
    outcome = read_outcome(target.line())
    assert (outcome.answer, outcome.state) == ((0, 0, 0), "whole")
    assert outcome.elapsed_ms >= LEAST_MS


def test_sleep_on_a_stack_of_a_runtime_ends_early_at_worst(
    begin: Callable[[str, str], Target],
) -> None:
    """Inherent: without a way back it sleeps less and keeps our arguments if the visitor dies."""
    ended = die_everywhere(lambda: begin("foreign_nanosleep", "nanosleep"), [set_merge(on=True)])
    for death, target in ended:
        outcome = read_outcome(target.line())
        assert outcome.answer == (0, 0, 0), death
        if not death.registers_were_touched or death.finished:
            assert outcome.state == "whole", death
            assert outcome.elapsed_ms >= LEAST_MS
        assert outcome.state in {"whole"} | ARGUMENTS, death
