"""A program of a load as a process: started, spoken to, looked at, and ended by its own id."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel import KernelError, Process, find_process, read_status

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.governor.loads import Container

HERE: Final = Path(__file__).parent / "programs"
TREE: Final = Path(__file__).parents[2]
END_SECONDS: Final = 10.0


def has_java() -> bool:
    """Tell whether there is a JVM, and the compiler for its program."""
    return bool(shutil.which("java") and shutil.which("javac"))


def compile_java(folder: Path) -> None:
    """Compile the program of the JVM into a folder."""
    subprocess.run(["javac", "-d", str(folder), str(HERE / "Heap.java")], check=True)


def command(container: Container, classes: Path) -> tuple[list[str], dict[str, str]]:
    """Return the words and the environment that a container is started with."""
    if container.program == "java":
        size, *others = container.arguments
        sized = (f"-Xms{size}m", f"-Xmx{size}m")
        return ["java", "-XX:+UseSerialGC", *sized, "-cp", str(classes), "Heap", *others], {}
    module = f"benchmarks.governor.programs.{container.program}"
    path = os.pathsep.join([str(TREE), os.environ.get("PYTHONPATH", "")])
    variables = {"PYTHONHASHSEED": str(container.hash_seed), "PYTHONPATH": path}
    return [sys.executable, "-m", module, *container.arguments], variables


class Program:
    """A program of a session of its own, so that Ctrl-C reaches only the benchmark.

    Attributes:
        pid: of its first process, and of its group.
    """

    def __init__(self, words: Sequence[str], variables: dict[str, str]) -> None:
        """Start it; it waits to be told to go on."""
        self._popen = subprocess.Popen(
            words,
            env=os.environ | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self._popen.pid

    @property
    def process(self) -> Process:
        """Its first process, for good."""
        return find_process(self.pid)

    def expect(self, word: str) -> None:
        """Wait until it says this.

        Raises:
            RuntimeError: it said something else, or ended.
        """
        if self.line() != word:
            raise RuntimeError(f"{self._popen.args!r} did not say {word!r}")

    def line(self) -> str:
        """Return the next line that it prints; empty if it has ended."""
        assert self._popen.stdout is not None
        return self._popen.stdout.readline().strip()

    def tell(self, text: str) -> None:
        """Write a line to it."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(f"{text}\n")
        self._popen.stdin.flush()

    def close_input(self) -> None:
        """Let it end by itself."""
        assert self._popen.stdin is not None
        self._popen.stdin.close()

    def wait(self, seconds: float) -> bool:
        """Tell, after so many seconds at most, whether its first process has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(seconds)
        return self._popen.returncode is not None

    def end(self) -> None:
        """End it and all that it has forked, and wait until they are gone."""
        pids = list(family(self.pid))
        # Nobody has waited for the first process yet, so the number of its group is still its own.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()
        deadline = time.monotonic() + END_SECONDS
        while any(resident(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.01)
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def family(pid: int) -> Iterator[int]:
    """Every process of a program: the first one and its children."""
    yield pid
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
        yield from (int(word) for word in text.split())


def resident(pid: int) -> int:
    """Return the bytes of memory that a process has; 0 if it is gone or as good as gone."""
    try:
        return int(read_status(pid).get("VmRSS", "0").split()[0]) << 10
    except KernelError:
        return 0
