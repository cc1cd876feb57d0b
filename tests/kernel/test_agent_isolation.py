"""Others who merge on the node: noticed, paused for, and never more than a nuisance."""

import contextlib
import json
import os
import queue
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernel.conftest import Cgroup, Holders, wait_until
from ksm_operator.agent import rounds
from ksm_operator.agent.foreign_watch import ForeignWatch
from ksm_operator.agent.news import ForeignSeen, News
from ksm_operator.agent.state import Container, State, save
from ksm_operator.agent.wire import Ksmd, NodePolicy, NodeSpec, Owner, to_json_types
from ksm_operator.kernel import (
    Hierarchy,
    KernelFeatures,
    KsmEnterEvents,
    Tracer,
    Unsupported,
    boot_id,
    enrol,
)
from ksm_operator.kernel.ksm_enter import INSTANCE
from ksm_operator.kernel.tracefs import mount_tracefs
from support import kernel

FORKS = """
import ctypes, os, pathlib, signal
ctypes.CDLL(None).prctl(67, 1, 0, 0, 0)
if os.fork():
    {parent}
path = pathlib.Path({path!r})
path.with_suffix(".part").write_text(str(os.getpid()))
path.with_suffix(".part").rename(path)
signal.pause()
"""
ENDS = "os._exit(0)"
CHANGES_ITS_MIND = "ctypes.CDLL(None).prctl(67, 0, 0, 0, 0); signal.pause()"
"""What the parent does, whom alone the kernel names."""
ASKS_BY_A_THREAD = """
import ctypes, mmap, signal, threading
area = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
begin = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(area)))
call = threading.Thread(target=ctypes.CDLL(None).madvise, args=(begin, 1 << 20, 12))
call.start()
call.join()
signal.pause()
"""
MERGES = "import ctypes, signal; ctypes.CDLL(None).prctl(67, 1, 0, 0, 0); signal.pause()"
A_DAY = 86_400.0
WATCHED_SECONDS = 6
LOOPS = """
import ctypes, mmap
libc = ctypes.CDLL(None)
area = mmap.mmap(-1, 256 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
area[0] = 1  # else the kernel has nothing to go over
while True:
    libc.prctl(67, 1, 0, 0, 0)
    libc.prctl(67, 0, 0, 0, 0)
"""
"""To switch merging off again takes seconds on many kernels, and all that time nobody else may look
at this process's memory."""


@contextlib.contextmanager
def tracefs() -> Iterator[Path]:
    """The root of tracefs."""
    try:
        fd = mount_tracefs()
    except Unsupported as error:
        pytest.skip(str(error))
    try:
        yield Path(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


@pytest.fixture
def told(ksm: None) -> None:
    """A kernel that tells who asks for merging."""
    with tracefs() as root:
        if not (root / "events/ksm/ksm_enter").exists():
            pytest.skip("this kernel has no tracepoint ksm:ksm_enter (6.5)")


@pytest.fixture
def orphan(prctl: KernelFeatures) -> Iterator[Callable[[str], int]]:
    """Start a program that is no child of ours, by its pid."""
    pids: list[int] = []

    def begin(code: str) -> int:
        words = ["sh", "-c", 'exec 3>&1; "$@" >/dev/null 3>&- & echo $!', "sh"]
        made = subprocess.run(
            [*words, sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True
        )
        pids.append(int(made.stdout))
        return pids[-1]

    yield begin
    for pid in pids:
        end(pid)


def end(pid: int) -> None:
    """Kill it, unless that is done."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def cpu_seconds(pid: int) -> float:
    """What it has used of the processor."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Watched:
    """What a watch told last."""

    def __init__(self, listen: Callable[[], KsmEnterEvents], *, shows_flag: bool) -> None:
        self.news: queue.SimpleQueue[News] = queue.SimpleQueue()
        self.seen: ForeignSeen | None = None
        controller = "memory" if Path("/sys/fs/cgroup/memory").exists() else ""
        self.watch = ForeignWatch(
            controller,
            self.news,
            lambda _: (),
            shows_flag=shows_flag,
            listen=listen,
            own=1 << 30,
        )
        self.watch.start()

    def sees(self, pid: int) -> bool:
        """Whether it takes this process for foreign now."""
        with contextlib.suppress(queue.Empty):
            while True:
                one = self.news.get_nowait()
                assert isinstance(one, ForeignSeen)
                self.seen = one
        return self.seen is not None and pid in [one.process.pid for one in self.seen.mergers]


def untold() -> KsmEnterEvents:
    """A kernel that does not tell."""
    raise Unsupported("not told")


@pytest.mark.parametrize("tells", [True, False])
def test_who_asks_is_noticed(
    ksmd: None,
    orphan: Callable[[str], int],
    prctl: KernelFeatures,
    request: pytest.FixtureRequest,
    *,
    tells: bool,
) -> None:
    """Whoever comes into the pool is seen, whether or not the kernel has a way to tell.

    Before 6.14 a process that the kernel does not tell of shows once ksmd has scanned it.
    """
    if tells:
        request.getfixturevalue("told")
    instance = f"ksm-test-{secrets.token_hex(4)}"
    watched = Watched(
        (lambda: KsmEnterEvents(instance)) if tells else untold,
        shows_flag=prctl.ksm_stat_shows_flag,
    )
    try:
        wait_until(lambda: watched.sees(0) or watched.seen is not None, "the first look is over")
        began = time.monotonic()
        pid = orphan(MERGES)
        wait_until(lambda: bool(kernel.merge_any(pid)), "it merges")
        asked = time.monotonic()
        wait_until(lambda: watched.sees(pid), "it is noticed")
        now = time.monotonic()
        print(f"noticed {now - asked:.2f} s after it merged, {now - began:.2f} s after its start")
        end(pid)
        wait_until(lambda: not watched.sees(pid), "its end is noticed")
    finally:
        watched.watch.close()
    if tells:
        with tracefs() as root:
            assert not (root / "instances" / instance).exists(), "something stays in the kernel"


@pytest.fixture
def told_watch(
    told: None, ksmd: None, prctl: KernelFeatures, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Watched]:
    """A watch that the kernel tells, and that goes over all processes for no other reason."""
    monkeypatch.setattr(rounds, "ROUND_SECONDS", A_DAY)
    instance = f"ksm-test-{secrets.token_hex(4)}"
    watched = Watched(lambda: KsmEnterEvents(instance), shows_flag=prctl.ksm_stat_shows_flag)
    try:
        wait_until(lambda: watched.sees(0) or watched.seen is not None, "the first look is over")
        yield watched
    finally:
        watched.watch.close()


@pytest.mark.parametrize("parent", [ENDS, CHANGES_ITS_MIND])
def test_a_child_that_nobody_named_is_noticed(
    told_watch: Watched,
    orphan: Callable[[str], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    parent: str,
) -> None:
    """A daemon merges for as long as it likes, and the kernel named the one that began it."""
    monkeypatch.setattr(rounds, "ROUND_LEAST_SECONDS", A_DAY)
    path = tmp_path / "child"
    orphan(FORKS.format(parent=parent, path=str(path)))
    wait_until(path.exists, "it has forked")
    child = int(path.read_text())
    forked = time.monotonic()
    try:
        wait_until(lambda: told_watch.sees(child), "the child is noticed")
        print(f"noticed {time.monotonic() - forked:.2f} s after it was there")
    finally:
        end(child)


def test_a_process_whose_thread_asked_and_ended_is_noticed(
    told_watch: Watched, orphan: Callable[[str], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel named a thread that nobody can find any more, and the process is not new."""
    monkeypatch.setattr(rounds, "ROUND_LEAST_SECONDS", 1.0)
    pid = orphan(ASKS_BY_A_THREAD)
    wait_until(lambda: told_watch.sees(pid), "it is noticed")


def test_what_a_killed_agent_left_is_taken_over(told: None, orphan: Callable[[str], int]) -> None:
    """The kernel keeps a tracing instance for as long as it runs, whoever made it."""
    instance = f"ksm-test-{secrets.token_hex(4)}"
    listens = (
        "import os, signal; from ksm_operator.kernel import KsmEnterEvents; "
        f"events = KsmEnterEvents({instance!r}); print('ready', flush=True); signal.pause()"
    )
    with (
        subprocess.Popen([sys.executable, "-c", listens], stdout=subprocess.PIPE) as first,
        tracefs() as root,
    ):
        assert first.stdout is not None
        assert first.stdout.readline() == b"ready\n"
        first.kill()
        first.wait()
        assert (root / "instances" / instance).exists(), "what the test is about"
        events = KsmEnterEvents(instance)
        pid = orphan(MERGES)
        wait_until(lambda: pid in events.read().tids, "the next one hears of it")
        events.close()
        assert not (root / "instances" / instance).exists()


TOLD = to_json_types(
    NodeSpec(
        owner=Owner(name="web", uid="u", generation=1),
        desired_state="Merging",
        # In one batch ksmd may wait for the same process several times.
        policy=NodePolicy(
            namespaces=("web",),
            ksmd=Ksmd(tuning="Fixed", pages_to_scan=500, sleep_milliseconds=20),
        ),
    )
)


class RunningAgent:
    """The agent's program, told by an earlier one what to do: no API server answers."""

    def __init__(self, directory: Path, state: State) -> None:
        save(directory / "state.json", state)
        (directory / "token").write_text("none")
        with socket.socket() as free:
            free.bind(("", 0))
            self.port = free.getsockname()[1]
        options = {
            "node": "node",
            "state-dir": str(directory),
            "http-port": str(self.port),
            "server": "http://127.0.0.1:1",
            "token-file": str(directory / "token"),
            "ca-file": str(directory / "token"),
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        words.append("--open-metrics")
        self.log_path = directory / "log"
        self.log = self.log_path.open("w")
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "ksm_operator.agent", *words], stderr=self.log, stdout=self.log
        )

    def series(self, name: str) -> float:
        """One of its metrics; NaN before it answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as page:
                found = re.search(rf"^{name} (.+)$", page.read().decode(), re.MULTILINE)
        except OSError:
            return float("nan")
        return float(found[1]) if found else float("nan")

    def owner(self) -> str:
        """Whose the node is by its record."""
        owner: str = json.loads((self.log_path.parent / "state.json").read_text())["owner"]
        return owner

    def stop(self) -> None:
        """As the kubelet does."""
        self.popen.terminate()
        status = self.popen.wait(30)
        self.log.close()
        print(self.log_path.read_text())
        assert status == 0


@pytest.fixture
def agent(  # noqa: PLR0917 - pytest passes them by name
    ksm_settings: dict[str, bytes],
    prctl: KernelFeatures,
    hierarchy: Hierarchy,
    cgroup: Cgroup,
    holder: Holders,
    tracer: Tracer,
    tmp_path: Path,
) -> Iterator[RunningAgent]:
    """An agent with two enrolled processes."""
    uid = "00000000-1111-2222-3333-444444444444"
    inner = cgroup.child("kubepods").child(f"pod{uid}").child("ab" * 32)
    path = "/" + str(inner.directory.relative_to(hierarchy.mount))
    container = Container(uid, path)
    for _ in range(2):
        target = holder(8, inner)
        enrol(target.process, tracer)
        container.enrolled.add(target.process)
    state = State(boot_id(), owner="u", containers={path: container}, told=TOLD, generation=1)
    made = RunningAgent(tmp_path, state)
    try:
        yield made
    finally:
        made.stop()


def test_a_hostile_process_stops_merging_and_nothing_else(
    told: None, agent: RunningAgent, orphan: Callable[[str], int]
) -> None:
    """It may ask and change its mind for ever, and lock everybody out of its memory meanwhile."""
    wait_until(lambda: kernel.counter("run") == 1, "ksmd scans")
    assert agent.series("ksm_node_foreign_mergers") == 0, "its own children are not foreign"

    hostile = orphan(LOOPS)
    started = time.monotonic()
    wait_until(lambda: kernel.counter("run") == 0, "ksmd stands still")
    print(f"ksmd stands still {time.monotonic() - started:.2f} s after the start of the other one")
    wait_until(lambda: agent.series("ksm_node_foreign_mergers") == 1, "it is counted")

    mine, theirs = cpu_seconds(agent.popen.pid), cpu_seconds(hostile)
    changes, before = 0, 0
    ends = time.monotonic() + WATCHED_SECONDS
    while time.monotonic() < ends:
        run = kernel.counter("run")
        changes, before = changes + (run != before), run
        time.sleep(0.05)
    mine, theirs = cpu_seconds(agent.popen.pid) - mine, cpu_seconds(hostile) - theirs
    print(f"{changes} changes of run; {mine:.2f} s of CPU of the agent, {theirs:.2f} s of its own")
    assert changes == 0
    assert mine < 0.5 * theirs, "who keeps the agent busy has to pay more for it"
    assert agent.series("ksm_node_foreign_mergings_total") == 1

    end(hostile)
    wait_until(lambda: kernel.counter("run") == 1, "ksmd scans again")
    with tracefs() as root:
        assert (root / "instances" / INSTANCE).exists()
        agent.popen.terminate()
        agent.popen.wait(30)
        assert not (root / "instances" / INSTANCE).exists(), "something stays in the kernel"
        assert kernel.counter("run") == 0


def test_a_node_on_which_the_host_merges_is_left_alone(
    ksm_settings: dict[str, bytes], orphan: Callable[[str], int], tmp_path: Path
) -> None:
    """Whoever was there first has a reason, and would share the pool with the domain."""
    first = orphan(MERGES)
    wait_until(lambda: bool(kernel.merge_any(first)), "it merges")
    agent = RunningAgent(tmp_path, State(boot_id(), told=TOLD, generation=1))
    try:
        wait_until(lambda: agent.series("ksm_node_foreign_mergers") == 1, "it is counted")
        assert agent.owner() == ""
        end(first)
        wait_until(lambda: agent.owner() == "u", "the node is taken")
    finally:
        agent.stop()
