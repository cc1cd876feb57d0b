"""Fixtures of the kernel tier: this machine's KSM and memory cgroups, real and put back."""

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernel.blocking_calls import NUMBERS
from ksm_operator.kernel import (
    Hierarchy,
    KernelFeatures,
    Process,
    Tracer,
    find_memory_hierarchy,
    find_process,
    probe,
)
from support import kernel, machine

HERE = Path(__file__).parent
UNIFIED = Path("/sys/fs/cgroup/cgroup.controllers")
SMALL_BYTES = 2 << 30
collect_ignore = [
    *([] if UNIFIED.exists() else ["test_frozen.py"]),
    *([] if machine.memory_bytes() < SMALL_BYTES else ["test_agent_debt.py"]),
]
"""What is about cgroup version 2 runs where that is mounted, and what fills a machine's memory
where that is small; the vm tier has both."""
PATIENCE_SECONDS = 60


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this directory is of the kernel tier."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("kernel")
            # A target that says nothing must not hold the machine's lock for ever.
            item.add_marker(pytest.mark.timeout(120, func_only=True))


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait until it is so; a machine that is busy gets its time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        asked = time.monotonic()
        if condition():
            return
        now = time.monotonic()
        assert now < deadline, f"not within {PATIENCE_SECONDS} s: {what}"
        # What it waits for may need the processor that asking takes.
        time.sleep(max(0.01, min(4 * (now - asked), deadline - now)))


@pytest.fixture(scope="session")
def features(ksm: None) -> KernelFeatures:
    """What this kernel can do; it stays so, and an emulated machine takes seconds to find out."""
    return probe()


@pytest.fixture(scope="session")
def prctl(features: KernelFeatures) -> KernelFeatures:
    """A kernel on which a whole process can be enrolled."""
    if features.method != "Prctl":
        pytest.skip("this kernel has no PR_SET_MEMORY_MERGE: Linux 6.4 or later is needed")
    return features


@pytest.fixture
def ksm_settings(ksm: None) -> Iterator[dict[str, bytes]]:
    """The values under /sys/kernel/mm/ksm, put back and checked one by one after the test."""
    with kernel.settings_put_back() as before:
        yield before
    assert kernel.settings() == before


@pytest.fixture
def ksmd(ksm_settings: dict[str, bytes]) -> None:
    """Ksmd at work, and quick about it."""
    kernel.write_setting("sleep_millisecs", 5)
    kernel.write_setting("pages_to_scan", 20000)
    kernel.write_setting("run", 1)


@pytest.fixture
def tracer(ksm: None) -> Iterator[Tracer]:
    """What makes processes run system calls."""
    made = Tracer()
    yield made
    made.close()


class Target:
    """A process that a test started, whose output is read line by line."""

    def __init__(self, popen: "subprocess.Popen[str]") -> None:
        self.popen = popen
        self.process: Process = find_process(popen.pid)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.popen.pid

    def line(self) -> str:
        """The next line that it prints, empty at the end."""
        assert self.popen.stdout is not None
        return self.popen.stdout.readline().strip()

    def tell(self, text: str) -> None:
        """Write a line to it."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(text + "\n")
        self.popen.stdin.flush()

    def close_input(self) -> None:
        """It reads to the end of its input."""
        assert self.popen.stdin is not None
        self.popen.stdin.close()

    def state(self) -> str:
        """Its state letter."""
        stat = Path(f"/proc/{self.pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0]

    def wait_for_state(self, letters: str) -> None:
        """Until it sleeps, stops, or whatever the letter says."""
        wait_until(lambda: self.state() in letters, f"{self.pid} in state {letters}")

    def reaches_syscall(self, name: str) -> bool:
        """Wait until it is in this call; False if it was over before anybody could look."""
        file = Path(f"/proc/{self.pid}/syscall")
        number = str(NUMBERS[name])

        def is_there() -> bool:
            try:
                return file.read_text().split()[:1] == [number]
            except ProcessLookupError:
                return False

        wait_until(lambda: self.popen.poll() is not None or is_there(), f"{self.pid} in {name}")
        return self.popen.poll() is None

    def kill(self) -> None:
        """End it, whatever it is doing."""
        self.popen.kill()
        self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


Start = Callable[..., Target]


@pytest.fixture
def start(ksm: None) -> Iterator[Start]:
    """Start a program (or Python code) that prints `ready`; it is ended with the test."""
    targets: list[Target] = []

    def begin(*command: str, code: str | None = None, ready: bool = True) -> Target:
        words = [sys.executable, "-u", "-c", code, *command] if code is not None else [*command]
        popen = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        target = Target(popen)
        targets.append(target)
        if ready:
            assert target.line() == "ready"
        return target

    yield begin
    for target in targets:
        target.kill()


def compiled(name: str, directory: Path, *options: str) -> Path:
    """The program of a C file beside this one."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        machine.missing("These tests need a C compiler", "apt-get install gcc libc6-dev")
    program = directory / name
    command = [compiler, "-O2", "-Wall", "-Wno-unused-result", "-o", str(program)]
    subprocess.run([*command, str(HERE / f"{name}.c"), *options], check=True)
    return program


@pytest.fixture(scope="session")
def blocking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C program that blocks in a system call of one's choice."""
    return compiled("blocking", tmp_path_factory.mktemp("c"), "-lpthread", "-lrt")


@pytest.fixture(scope="session")
def holder_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C program that holds memory; it runs where no library is."""
    return compiled("holder", tmp_path_factory.mktemp("c"), "-static")


@pytest.fixture(scope="session")
def hierarchy() -> Hierarchy:
    """This machine's memory cgroups."""
    return find_memory_hierarchy()


class Cgroup:
    """A memory cgroup, with either version's file names."""

    def __init__(self, directory: Path, version: int) -> None:
        self.directory = directory
        self.version = version

    def child(self, name: str) -> "Cgroup":
        """One below it."""
        if self.version == 2:
            (self.directory / "cgroup.subtree_control").write_text("+memory")
        made = Cgroup(self.directory / name, self.version)
        made.directory.mkdir()
        return made

    def limit(self, number: int) -> None:
        """Set how many bytes it may use."""
        name = "memory.limit_in_bytes" if self.version == 1 else "memory.max"
        (self.directory / name).write_text(str(number))

    def usage(self) -> int:
        """Bytes charged to it."""
        name = "memory.usage_in_bytes" if self.version == 1 else "memory.current"
        return int((self.directory / name).read_text())

    def oom_kills(self) -> int:
        """Processes that the kernel killed for its limit."""
        name = "memory.oom_control" if self.version == 1 else "memory.events"
        words = (self.directory / name).read_text().split()
        return int(words[words.index("oom_kill") + 1])

    def add(self, pid: int) -> None:
        """Move a process into it."""
        (self.directory / "cgroup.procs").write_text(str(pid))

    def remove(self) -> None:
        """Remove it and all below it, and end what a test started in it."""
        for path, _, _ in os.walk(self.directory, topdown=False):
            directory = Path(path)
            for pid in (directory / "cgroup.procs").read_text().split():
                os.kill(int(pid), 9)
            wait_until(lambda d=directory: _rmdir(d), f"{directory} empty")  # type: ignore[misc]


def _rmdir(directory: Path) -> bool:
    try:
        directory.rmdir()
    except OSError:
        return not directory.exists()
    return True


@pytest.fixture
def cgroup(ksm: None, hierarchy: Hierarchy) -> Iterator[Cgroup]:
    """An empty memory cgroup below the one that the tests run in; on version 2, beside it.

    There a cgroup with processes of its own has no limits for cgroups below it.
    """
    own = hierarchy.directory(os.getpid())
    above = own if hierarchy.version == 1 or own == hierarchy.mount else own.parent
    made = Cgroup(above / f"ksm-test-{os.getpid()}", hierarchy.version)
    made.directory.mkdir()
    yield made
    made.remove()


@pytest.fixture
def sentry(holder_program: Path, tmp_path: Path) -> Path:
    """A program that is called as gVisor's is; it takes a size and a salt."""
    program = tmp_path / "runsc"
    shutil.copy(holder_program, program)
    return program


class Holders:
    """Starts processes whose memory merges with each other's, and with nobody else's."""

    def __init__(self, start: Start, program: Path) -> None:
        self._start = start
        self._program = program
        self._salt = secrets.token_hex(8)

    def __call__(
        self, mebibytes: int, cgroup: Cgroup | None = None, *advice: str, ready: bool = True
    ) -> Target:
        """One with so much, in a cgroup if given, advised as `holder.c` understands it."""
        words = [str(self._program), str(mebibytes), self._salt, *advice]
        if cgroup is None:
            return self._start(*words, ready=ready)
        # It starts in the cgroup, so that every page of it is charged there.
        procs = cgroup.directory / "cgroup.procs"
        return self._start("sh", "-c", f'echo $$ > "{procs}"; exec "$@"', "sh", *words, ready=ready)

    def others(self) -> "Holders":
        """The same with another memory."""
        return Holders(self._start, self._program)


@pytest.fixture
def holder(start: Start, holder_program: Path) -> Holders:
    """Start a process with memory that merges with another holder's, in a cgroup if given."""
    return Holders(start, holder_program)


def intact(target: Target) -> bool:
    """Whether a holder's memory holds what it wrote."""
    target.tell("check")
    return target.line() == "intact"
