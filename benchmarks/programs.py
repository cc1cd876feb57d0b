"""The C programs that are measured or measured against: built, started, ended."""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import struct
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ksm_operator.kernel import Process, find_process

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

SOURCES = Path(__file__).parent / "programs"


class MissingTool(Exception):  # noqa: N818 - names what happened
    """A program that a benchmark needs is not installed."""


@contextlib.contextmanager
def built(*names: str, options: Sequence[str] = ("-lpthread",)) -> Iterator[Path]:
    """Compile programs into a directory that is gone afterwards.

    Args:
        names: of their files, without the ending.
        options: for the compiler, behind the file.

    Raises:
        MissingTool: there is no C compiler.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise MissingTool("a C compiler is needed: apt-get install gcc libc6-dev")
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            source = str(SOURCES / f"{name}.c")
            target = str(Path(folder) / name)
            words = [compiler, "-O2", "-Wall", "-o", target, source, *options]
            subprocess.run(words, check=True)
        yield Path(folder)


class Program:
    """A program that has said `ready`, and numbers that it shares with us."""

    def __init__(self, *command: str) -> None:
        """Start it; its first argument becomes the file of the shared numbers."""
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the program
        self._file.truncate(mmap.PAGESIZE)
        self.shared = mmap.mmap(self._file.fileno(), mmap.PAGESIZE)
        path = f"/proc/{os.getpid()}/fd/{self._file.fileno()}"
        self.popen = subprocess.Popen(
            [command[0], path, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self.popen.stdout is None or self.popen.stdout.readline() != "ready\n":
            raise RuntimeError(f"{command[0]} did not start")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.popen.kill()
        self.popen.wait()
        if self.popen.stdout is not None:
            self.popen.stdout.close()
        self.shared.close()
        self._file.close()

    @property
    def process(self) -> Process:
        """The process, for good."""
        return find_process(self.popen.pid)

    def longest(self, which: int = 0) -> float:
        """Microseconds of the longest gap since the last `forget`."""
        return float(struct.unpack_from("Q", self.shared, 8 * which)[0]) / 1000

    def wait_for_look(self) -> None:
        """Return when a `clock` has looked at the time after this call."""
        now = time.monotonic_ns()
        while struct.unpack_from("Q", self.shared, 8)[0] < now:
            time.sleep(0.0002)

    def forget(self) -> None:
        """Start anew."""
        struct.pack_into("QQ", self.shared, 0, 0, 0)


class Injector:
    """The C program that does the least that a tracer can do."""

    def __init__(self, program: Path, pid: int) -> None:
        self._popen = subprocess.Popen(
            [str(program), str(pid)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._popen.pid

    def call(self, *, on: bool) -> None:
        """Switch merging on or off.

        Raises:
            RuntimeError: it did not work.
        """
        if self._popen.stdin is None or self._popen.stdout is None:
            raise RuntimeError("no pipe to the injector")
        self._popen.stdin.write(f"{int(on)}\n")
        self._popen.stdin.flush()
        answer = self._popen.stdout.readline()
        if answer != "0\n":
            raise RuntimeError(f"the injector says {answer!r}")

    def close(self) -> None:
        """End it."""
        self._popen.communicate()


@contextlib.contextmanager
def ahead_of_others(*pids: int) -> Iterator[None]:
    """Let these processes and this one run before all other programs of the machine.

    So that what else runs there counts for less: it still has its share of the caches and of the
    kernel's locks. Only for moments, and not for a program that spins longer than a second.
    """
    tids = [
        int(task.name)
        for pid in (os.getpid(), *pids)
        for task in Path(f"/proc/{pid}/task").iterdir()
    ]
    for tid in tids:
        os.sched_setscheduler(tid, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        own = [int(task.name) for task in Path("/proc/self/task").iterdir()]
        for tid in {*tids, *own}:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setscheduler(tid, os.SCHED_OTHER, os.sched_param(0))


@contextlib.contextmanager
def hogs(count: int) -> Iterator[None]:
    """Keep the machine busy with this many processes that never sleep."""
    them = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(count)]
    try:
        yield
    finally:
        for one in them:
            one.kill()
            one.wait()
