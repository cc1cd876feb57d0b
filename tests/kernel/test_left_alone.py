"""Threads that must not be stopped, and what a visitor that does not look does to them."""

import contextlib
import os
import pty
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.blind import BlindVisit, run_on
from kernel.blocking_calls import read_outcome
from kernel.calls import get_merge
from kernel.conftest import Cgroup, Start, Target, wait_until
from ksm_operator.kernel import Hierarchy, Postponed, Process, ProcessGone, Tracer, find_process
from ksm_operator.kernel.attached import StillAttached
from ksm_operator.kernel.enrol import set_merge
from support import kernel

pytestmark = pytest.mark.alone

POLLING_RING = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
params = ctypes.create_string_buffer(struct.pack("=5I", 0, 0, 2, 0, 60000), 120)  # SQPOLL
ring = libc.syscall(425, 8, params)
assert ring >= 0, os.strerror(ctypes.get_errno())
print("ready", flush=True)
if sys.argv[1] == "waits":
    sys.stdin.readline()
else:
    read, write = os.pipe()
    os.write(write, bytes(1 << 20))
print("alive", flush=True)
"""


def worker_of(target: Target) -> int:
    """The thread that the kernel has made in it for its ring."""

    def found() -> list[int]:
        # The kernel may answer the program before the thread has given itself its name.
        tasks = Path(f"/proc/{target.pid}/task").iterdir()
        return [int(t.name) for t in tasks if (t / "comm").read_text().startswith("iou-sqp")]

    wait_until(lambda: found() != [], f"{target.pid} has an iou-sqp thread")
    return found()[0]


def test_rings_worker_is_never_chosen(start: Start, tracer: Tracer) -> None:
    """It lets itself be stopped and never makes the call; another thread does."""
    target = start("waits", code=POLLING_RING)
    worker_of(target)
    for on in (True, False):
        target.wait_for_state("S")
        visit = tracer.call(target.process, [set_merge(on=on)])
        assert (visit.results, visit.tid) == ((0,), target.pid)
        assert kernel.merge_any(target.pid) is on
    target.tell("go")
    assert target.line() == "alive"


def test_rings_worker_is_not_even_the_last_resort(start: Start, tracer: Tracer) -> None:
    """Where no other thread serves, the process waits for its turn."""
    target = start("transfers", code=POLLING_RING)
    target.wait_for_state("S")
    with pytest.raises(Postponed) as caught:
        tracer.call(target.process, [get_merge()])
    assert caught.value.reason in {"BusyInSyscall", "KernelWorker"}


def test_rings_worker_never_makes_a_call(start: Start) -> None:
    """Who chose it would wait for nothing."""
    target = start("waits", code=POLLING_RING)
    ended = BlindVisit(target.process, worker_of(target), run_on).ended()
    assert isinstance(ended, Postponed | StillAttached), ended
    target.tell("go")
    assert target.line() == "alive"


SUPERVISED = """
import ctypes, fcntl, os, select, signal, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]
def instruction(code, jt, jf, k):
    return struct.pack("=HBBI", code, jt, jf, k)
text = b"".join([
    instruction(0x20, 0, 0, 0),            # load the system call's number
    instruction(0x15, 0, 1, 110),          # getppid?
    instruction(0x06, 0, 0, 0x7fc00000),   # ask the supervisor
    instruction(0x06, 0, 0, 0x7fff0000),   # allow
])
installed, tell = os.pipe()
child = os.fork()
if child == 0:
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    program = Program(len(text) // 8, text)
    listener = libc.syscall(317, 1, 8, ctypes.byref(program))
    assert listener >= 0
    os.write(tell, bytes([listener]))
    os._exit(0 if libc.syscall(110) == 4242 else 1)
number = os.read(installed, 1)[0]
listener = libc.syscall(438, libc.syscall(434, child, 0), number, 0)
assert listener >= 0
asked = 0
def receive():
    global asked
    request = bytearray(80)
    fcntl.ioctl(listener, 0xC0502100, request)
    asked += 1
    return request[:8]
ticket = receive()
print("ready", flush=True)
print(child, flush=True)
sys.stdin.readline()
while True:
    try:
        fcntl.ioctl(listener, 0xC0182101, bytearray(ticket + struct.pack("=qiI", 4242, 0, 0)))
        break
    except FileNotFoundError:  # it was interrupted, and asks again
        ticket = receive()
print(asked, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""A process whose getppid(2) is answered by its parent, when that is told."""


def supervised(start: Start) -> tuple[Target, Process]:
    """The supervisor, and its child that waits for an answer."""
    target = start(code=SUPERVISED)
    child = int(target.line())
    channel = Path(f"/proc/{child}/wchan")
    wait_until(lambda: "seccomp" in channel.read_text(), f"{child} waits for its supervisor")
    return target, find_process(child)


def test_supervisor_is_asked_once(start: Start, tracer: Tracer) -> None:
    """What a supervisor does on a call, a mount for one, must not be done twice."""
    target, child = supervised(start)
    with pytest.raises(Postponed) as caught:
        tracer.call(child, [get_merge()])
    assert caught.value.reason == "SeccompNotification"
    target.tell("go")
    assert target.line() == "1 0"


def test_supervisor_would_be_asked_twice(start: Start) -> None:
    """The kernel makes the interrupted call again, and its supervisor sees another one."""
    target, child = supervised(start)
    BlindVisit(child, child.pid).ended()
    target.tell("go")
    assert target.line() == "2 0"


def own_cgroup(controller: str) -> Cgroup:
    """A cgroup of version 1 under this controller; skips where it is not mounted."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    places = [
        words[1] for words in mounts if words[2] == "cgroup" and controller in words[3].split(",")
    ]
    if not places:
        pytest.skip(f"needs mount -t cgroup -o {controller} none /sys/fs/cgroup/{controller}")
    made = Cgroup(Path(places[0]) / f"ksm-test-{os.getpid()}", 1)
    made.directory.mkdir()
    return made


@pytest.fixture
def without_quota(ksm: None) -> Iterator[Cgroup]:
    """A cgroup that may use 1 ms of CPU in a second, and has used it: a program in it spins."""
    made = own_cgroup("cpu")
    (made.directory / "cpu.cfs_period_us").write_text("1000000")
    (made.directory / "cpu.cfs_quota_us").write_text("1000")
    yield made
    (made.directory / "cpu.cfs_quota_us").write_text("-1")
    made.remove()


def test_thread_without_a_processor_is_waited_for(
    blocking: Path, without_quota: Cgroup, start: Start, tracer: Tracer
) -> None:
    """Its wait is over for the kernel before it can stop: given up then, it would see EINTR."""
    target = start(str(blocking), "epoll_wait_endless")
    target.wait_for_state("S")
    spinner = start("sh", "-c", "echo ready; while :; do :; done")
    without_quota.add(spinner.pid)
    without_quota.add(target.pid)
    # Between two tries its call may end by itself, and then the program: what it saw counts.
    with contextlib.suppress(Postponed, ProcessGone):
        tracer.call(target.process, [get_merge()])
    (without_quota.directory / "cpu.cfs_quota_us").write_text("-1")
    outcome = read_outcome(target.line())
    assert (outcome.answer, outcome.state) == ((1, 0, 77), "whole")


@pytest.fixture
def freezer(cgroup: Cgroup, hierarchy: Hierarchy) -> Iterator[tuple[Path, str, str]]:
    """A cgroup that can be frozen: its directory, and what to write to freeze and to thaw it."""
    if hierarchy.version == 2:
        (cgroup.directory / "cgroup.freeze").write_text("0")
        yield cgroup.directory, "1", "0"
        return
    made = own_cgroup("freezer")
    yield made.directory, "FROZEN", "THAWED"
    (made.directory / "freezer.state").write_text("THAWED")
    made.remove()


class Freezer:
    """Freezes and thaws one process."""

    def __init__(self, files: tuple[Path, str, str], target: Target) -> None:
        directory, self._frozen, self._thawed = files
        (directory / "cgroup.procs").write_text(str(target.pid))
        states = (directory / "freezer.state", directory / "cgroup.freeze")
        self._file = next(file for file in states if file.exists())

    def freeze(self) -> None:
        """Until it is frozen."""
        self._file.write_text(self._frozen)
        done = (
            self._file
            if self._file.name == "freezer.state"
            else self._file.with_name("cgroup.events")
        )
        wanted = "FROZEN" if done == self._file else "frozen 1"
        wait_until(lambda: wanted in done.read_text(), "frozen")

    def thaw(self) -> None:
        """Let it go on."""
        self._file.write_text(self._thawed)


WAIT = "import sys; print('ready', flush=True); sys.stdin.readline(); print('alive', flush=True)"


def test_frozen_process_is_left_frozen(
    freezer: tuple[Path, str, str], start: Start, tracer: Tracer
) -> None:
    """A container that is paused cannot make a call; once it goes on it can."""
    target = start(code=WAIT)
    target.wait_for_state("S")
    hand = Freezer(freezer, target)
    hand.freeze()
    with pytest.raises(Postponed) as caught:
        tracer.call(target.process, [get_merge()])
    assert caught.value.reason in {"Frozen", "Uninterruptible"}
    hand.thaw()
    target.wait_for_state("S")
    for on in (True, False):
        assert tracer.call(target.process, [set_merge(on=on)]).results == (0,)
        assert kernel.merge_any(target.pid) is on
    target.tell("go")
    assert target.line() == "alive"


def test_frozen_process_outlives_a_visitor_that_does_not_look(
    freezer: tuple[Path, str, str], start: Start
) -> None:
    """It is frozen in the moment between the look and the stop: no call, and no harm."""
    target = start(code=WAIT)
    target.wait_for_state("S")
    hand = Freezer(freezer, target)
    hand.freeze()
    ended = BlindVisit(target.process, target.pid).ended()
    assert isinstance(ended, Postponed | StillAttached), ended
    hand.thaw()
    target.tell("go")
    assert target.line() == "alive"


class Terminal:
    """A shell with job control, at a terminal of its own."""

    def __init__(self) -> None:
        self.pid, self._keyboard = pty.fork()
        if self.pid == 0:
            os.environ["PS1"] = ""
            os.execlp("sh", "sh", "-i")
        self._seen = b""

    def type(self, text: str) -> None:
        """As at a keyboard."""
        os.write(self._keyboard, text.encode())

    def shows(self, text: str) -> None:
        """Read on until this has been shown."""
        while text.encode() not in self._seen:
            self._seen += os.read(self._keyboard, 4096)
        self._seen = self._seen.partition(text.encode())[2]

    def child(self) -> Process | None:
        """What runs in the foreground; None if it is the shell."""
        words = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        for word in words:
            # It may end while it is looked at.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, ProcessGone):
                if Path(f"/proc/{word}/comm").read_text().strip() == "cat":
                    return find_process(int(word))
        return None

    def close(self) -> None:
        """End the shell and what it has started."""
        with contextlib.suppress(ProcessLookupError):
            if (child := self.child()) is not None:
                os.kill(child.pid, signal.SIGKILL)
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._keyboard)


@pytest.fixture
def terminal(ksm: None) -> Iterator[Terminal]:
    """A terminal that is closed after the test."""
    made = Terminal()
    yield made
    made.close()


def state(process: Process) -> str:
    """Its state letter."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_job_control_at_a_terminal(terminal: Terminal, tracer: Tracer) -> None:
    """Ctrl-Z stops, a visit wakes nobody, fg goes on, and what is typed arrives whole."""
    terminal.type("cat\n")
    wait_until(lambda: terminal.child() is not None, "cat runs")
    cat = terminal.child()
    assert cat is not None
    for turn in range(4):
        wait_until(lambda: state(cat) == "S", "cat reads")
        tracer.call(cat, [set_merge(on=turn % 2 == 0)])
        assert kernel.merge_any(cat.pid) is (turn % 2 == 0)
        terminal.type("\x1a")
        wait_until(lambda: state(cat) == "T", "cat stopped by Ctrl-Z")
        with pytest.raises(Postponed) as caught:
            tracer.call(cat, [get_merge()])
        assert caught.value.reason == "Stopped"
        assert state(cat) == "T"
        terminal.type("fg\n")
        wait_until(lambda: state(cat) == "S", "cat in the foreground")
        tracer.call(cat, [get_merge()])
        terminal.type(f"line {turn}\n")
        terminal.shows(f"line {turn}\r\nline {turn}\r\n")  # the echo, and cat's
    terminal.type("\x04")
    wait_until(lambda: terminal.child() is None, "cat has read to the end")
