"""A visit leaves no trace: whatever the target waits in ends as it would have ended."""

import contextlib
import platform
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kernel.blocking_calls import CASES, LEAST_MS, NUMBERS, Case, read_outcome
from kernel.calls import get_merge
from kernel.conftest import Start, Target, wait_until
from ksm_operator.kernel import KernelError, Postponed, ProcessGone, Syscall, Tracer
from ksm_operator.kernel.alarm import Alarm
from ksm_operator.kernel.blocking import Suitability
from ksm_operator.kernel.enrol import set_merge
from ksm_operator.kernel.machine import this_machine
from ksm_operator.kernel.procfs import PROC, Process
from ksm_operator.kernel.remote import visit
from ksm_operator.kernel.threads import Candidate
from ksm_operator.kernel.tracer import OPTIONS

pytestmark = pytest.mark.alone

VISITS = 4
SLACK_MS = 5000
POPULATION_VISITS = 300
EXIT, SECCOMP_CALL = {"x86_64": (60, 317), "aarch64": (93, 277)}[platform.machine()]


def turn(tracer: Tracer, target: Target, *, on: bool) -> str:
    """Switch merging on or off and check it; returns the call that the thread was caught in."""
    visit = tracer.call(target.process, [get_merge(), set_merge(on=on), get_merge()])
    assert visit.results == (int(not on), 0, int(on))
    return visit.caught_in


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_call_ends_as_if_nothing_had_been(
    case: Case, blocking: Path, start: Start, tracer: Tracer
) -> None:
    """The program must not see EINTR, a short result or an early return from our visits."""
    while not (target := start(str(blocking), case.name)).reaches_syscall(case.call):
        pass
    caught = []
    for number in range(VISITS):
        try:
            caught.append(turn(tracer, target, on=number % 2 == 0))
        except ProcessGone:
            break  # a machine that is busy took its time
        time.sleep(0.05)
    assert set(caught) == {case.call}, caught
    outcome = read_outcome(target.line())
    assert outcome.answer == case.answer
    assert outcome.state == "whole"
    assert LEAST_MS <= outcome.elapsed_ms < LEAST_MS + SLACK_MS
    assert target.popen.wait(10) == 0


def visit_as(target: Target, blocked_in: str) -> tuple[int, str]:
    """What a visit brings to a thread that was in this call when it was chosen."""
    seen = list[tuple[int, str]]()

    def visit_it() -> None:  # the thread that traces
        with contextlib.closing(Alarm()) as alarm:
            made = visit(
                target.process,
                Candidate(target.pid, Suitability.RESTARTABLE, blocked_in),
                [get_merge()],
                machine=this_machine(),
                options=OPTIONS,
                alarm=alarm,
                abandoned=lambda: False,
                proc=PROC,
            )
            seen.append((made.results[0], made.caught_in))

    tracing = threading.Thread(target=visit_it)
    tracing.start()
    tracing.join()
    return seen[0]


def test_a_chosen_thread_may_wait_in_another_call_by_now(
    blocking: Path, start: Start, tracer: Tracer
) -> None:
    """A container's runtime goes from wait to wait; to wait for the first would be to miss it."""
    while True:
        target = start(str(blocking), "futex")
        with contextlib.suppress(ProcessGone):
            if target.reaches_syscall("futex"):
                assert visit_as(target, "epoll_wait") == (0, "futex")
                # The kernel has taken its call up again, so no register tells which it is.
                assert target.reaches_syscall("restart_syscall")
                assert visit_as(target, "running") == (0, "futex")
                break
    assert read_outcome(target.line()).answer == (-1, 110, 0)


def test_population_checks_itself(blocking: Path, start: Start, tracer: Tracer) -> None:
    """Hundreds of visits over every kind of wait at once: nobody ends otherwise than alone."""
    visits = 0
    while visits < POPULATION_VISITS:
        population = [(case, start(str(blocking), case.name)) for case in CASES[::2]]
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            for _, target in population:
                with contextlib.suppress(Postponed, ProcessGone):
                    tracer.call(target.process, [set_merge(on=visits % 2 == 0)])
                    visits += 1
        for case, target in population:
            outcome = read_outcome(target.line())
            assert (outcome.answer, outcome.state) == (case.answer, "whole"), case
    print(visits, "visits")


def test_running_program_computes_the_same(blocking: Path, start: Start, tracer: Tracer) -> None:
    """A thread in user code keeps every register, vector registers included."""
    target = start(str(blocking), "spin", "interruptible")
    target.wait_for_state("R")
    for number in range(20):
        assert turn(tracer, target, on=number % 2 == 0) == "user code"
    target.popen.send_signal(signal.SIGUSR1)
    assert read_outcome(target.line()).state == "whole"


def test_stopped_target_is_left_stopped(start: Start, tracer: Tracer) -> None:
    """Job control belongs to the user: a stopped process is not woken, and continues later."""
    target = start(code="import sys; print('ready'); sys.stdin.readline(); print('continued')")
    target.popen.send_signal(19)
    target.wait_for_state("T")
    with pytest.raises(Postponed) as caught:
        tracer.call(target.process, [get_merge()])
    assert caught.value.reason == "Stopped"
    assert target.state() == "T"
    target.popen.send_signal(18)
    target.wait_for_state("S")
    assert tracer.call(target.process, [get_merge()]).results == (0,)
    target.tell("go")
    assert target.line() == "continued"


SECCOMP = f"""
import ctypes, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]
def instruction(code, jt, jf, k):
    return struct.pack("=HBBI", code, jt, jf, k)
text = b"".join([
    instruction(0x20, 0, 0, 0),                # load the system call's number
    instruction(0x15, 0, 1, {NUMBERS["prctl"]}),  # prctl?
    instruction(0x06, 0, 0, 0x80000000),       # kill the process
    instruction(0x06, 0, 0, 0x7fff0000),       # allow
])
program = Program(len(text) // 8, text)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.syscall({SECCOMP_CALL}, 1, 0, ctypes.byref(program)) == 0
print("ready", flush=True)
sys.stdin.readline()
print("alive", flush=True)
"""


def _under_seccomp(target: Target, mode: int) -> None:
    status = Path(f"/proc/{target.pid}/status")
    wait_until(lambda: f"Seccomp:\t{mode}" in status.read_text(), "seccomp on")
    target.wait_for_state("S")


def test_filter_that_kills_on_prctl_is_not_triggered(start: Start, tracer: Tracer) -> None:
    """The filter is meant for the program, and must not kill it for our call."""
    target = start(code=SECCOMP)
    _under_seccomp(target, 2)
    turn(tracer, target, on=True)
    turn(tracer, target, on=False)
    target.tell("go")
    assert target.line() == "alive"


def test_strict_seccomp_is_not_triggered(blocking: Path, start: Start, tracer: Tracer) -> None:
    """Strict mode kills on everything but read, write and exit."""
    target = start(str(blocking), "strict")
    _under_seccomp(target, 1)
    turn(tracer, target, on=True)
    turn(tracer, target, on=False)
    target.tell("go")
    assert target.line() == "alive"


def test_one_thread_of_many_is_enough(start: Start, tracer: Tracer) -> None:
    """Merging is a property of the memory, so one waiting thread serves, the busy ones run on."""
    target = start(
        code="""
import sys, threading, time
stop = threading.Event()
def busy():
    while not stop.is_set():
        sum(range(1000))
threads = [threading.Thread(target=busy) for _ in range(3)] + [
    threading.Thread(target=stop.wait) for _ in range(3)]
for thread in threads:
    thread.start()
print("ready", flush=True)
sys.stdin.readline()
stop.set()
for thread in threads:
    thread.join()
print("joined", flush=True)
"""
    )
    for number in range(10):
        turn(tracer, target, on=number % 2 == 0)
    target.tell("go")
    assert target.line() == "joined"


def test_process_whose_main_thread_has_exited(start: Start, tracer: Tracer) -> None:
    """The leader is a zombie, the memory lives: it is reached through another thread."""
    target = start(
        code=f"""
import ctypes, sys, threading, time
def rest():
    time.sleep(0.2)
    print("ready", flush=True)
    sys.stdin.readline()
    print("alive", flush=True)
    import os
    os._exit(0)
threading.Thread(target=rest).start()
ctypes.CDLL(None).syscall({EXIT}, 0)
"""
    )
    target.wait_for_state("Z")
    turn(tracer, target, on=True)
    turn(tracer, target, on=False)
    target.tell("go")
    assert target.line() == "alive"


def test_vfork_parent_is_left_alone(start: Start, tracer: Tracer) -> None:
    """A parent in vfork cannot stop before its child is done, so it is never attached."""
    target = start(
        code="""
import ctypes, time
libc = ctypes.CDLL(None)
print("ready", flush=True)
if libc.vfork() == 0:
    libc.usleep(1500000)
    libc._exit(0)
print("back", flush=True)
"""
    )
    target.wait_for_state("D")
    with pytest.raises(Postponed) as caught:
        tracer.call(target.process, [get_merge()])
    assert caught.value.reason == "Uninterruptible"


def test_traced_process_is_left_to_its_tracer(start: Start, tracer: Tracer) -> None:
    """A debugger's process is the debugger's."""
    target = start(
        code="""
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
child = os.fork()
if child == 0:
    time.sleep(60)
assert libc.ptrace(0x4206, child, 0, 0) == 0
print("ready", flush=True)
print(child, flush=True)
sys.stdin.readline()
os.kill(child, 9)
"""
    )
    child = int(target.line())
    stat = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    with pytest.raises(Postponed) as caught:
        tracer.call(Process(child, int(stat[19])), [get_merge()])
    assert caught.value.reason == "Traced"
    target.tell("go")
    target.popen.wait(10)


def test_bulk_transfer_is_not_interrupted(start: Start, tracer: Tracer) -> None:
    """A writer into a full pipe would come back short, which nothing can undo."""
    target = start(
        code="""
import os, sys
read, write = os.pipe()
print("ready", flush=True)
os.write(write, bytes(1 << 20))
"""
    )
    target.wait_for_state("S")
    with pytest.raises(Postponed) as caught:
        tracer.call(target.process, [get_merge()])
    assert caught.value.reason == "BusyInSyscall"


def test_another_process_with_the_same_pid_is_not_touched(start: Start, tracer: Tracer) -> None:
    """Pids are given out again: the start time tells."""
    target = start(code="import sys; print('ready'); sys.stdin.readline()")
    impostor = Process(target.pid, target.process.start_time + 1)
    with pytest.raises(ProcessGone):
        tracer.call(impostor, [set_merge(on=True)])
    assert tracer.call(target.process, [get_merge()]).results == (0,)


def test_exec_and_exit_at_any_moment(start: Start, tracer: Tracer) -> None:
    """Programs that exec and exit while we come and go are gone or postponed, never broken."""
    target = start(
        "sh",
        "-c",
        "echo ready; n=0; while [ $n -lt 150 ]; do"
        " sh -c 'exec sh -c \"exec true\"' || echo broken; n=$((n+1)); done; echo whole",
    )
    children = Path(f"/proc/{target.pid}/task/{target.pid}/children")
    visited = 0
    while target.popen.poll() is None:
        pids = [int(word) for word in children.read_text().split()] if children.exists() else []
        for pid in pids:
            try:
                stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                tracer.call(Process(pid, int(stat[19])), [set_merge(on=True)])
                visited += 1
            except (OSError, ProcessGone, Postponed):
                continue
            except KernelError as error:
                pytest.fail(f"an unexpected error: {error!r}")
        if not pids and children.exists() and target.state() == "Z":
            break
    assert target.line() == "whole"
    print(f"visited {visited} of the short-lived processes")


def test_a_call_that_fails_says_so(start: Start, tracer: Tracer) -> None:
    """The kernel's answer comes back as it was given."""
    target = start(code="import sys; print('ready'); sys.stdin.readline()")
    visit = tracer.call(target.process, [Syscall("prctl", (67, 1, 1, 1, 1))])
    assert visit.results == (-22,)
    assert visit.stopped_ns > 0


def test_a_call_that_does_not_end_is_called_off(start: Start, tracer: Tracer) -> None:
    """The tracer sleeps while it waits, and something has to wake it when the time is over."""
    target = start(code="import sys; print('ready'); print(sys.stdin.readline())")
    target.wait_for_state("S")
    with pytest.raises(Postponed) as caught:
        tracer.call(target.process, [Syscall("ppoll", (0, 0, 0, 0, 0), seconds=0.3)])
    assert caught.value.reason == "NoProgress"
    assert tracer.call(target.process, [get_merge()]).results == (0,)
    target.tell("go on")
    assert target.line() == "go on"


def test_without_a_timer_it_says_so(start: Start, tmp_path: Path) -> None:
    """Every wait for a target has a deadline, or the target is not touched; and why is told."""
    target = start("sh", "-c", "echo ready; read line")
    program = tmp_path / "visitor.py"
    program.write_text(
        "import resource, sys\n"
        "from ksm_operator.kernel import KernelError, Tracer, find_process\n"
        "from ksm_operator.kernel.enrol import set_merge\n"
        "tracer, target = Tracer(), find_process(int(sys.argv[1]))\n"
        "limits = resource.getrlimit(resource.RLIMIT_SIGPENDING)\n"
        "resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, limits[1]))\n"
        "for again in range(2):\n"
        "    try:\n"
        "        tracer.call(target, [set_merge(on=True)])\n"
        "    except KernelError as error:\n"
        "        print(error)\n"
        "resource.setrlimit(resource.RLIMIT_SIGPENDING, limits)\n"
        "print(tracer.call(target, [set_merge(on=False)]).results)\n"
    )
    done = subprocess.run(
        [sys.executable, str(program), str(target.pid)],
        env={"PYTHONPATH": str(Path(__file__).parents[2] / "operator")},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    first, second, results = done.stdout.splitlines()
    assert first == second
    assert "raise RLIMIT_SIGPENDING" in first
    assert results == "(0,)"
