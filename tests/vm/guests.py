"""Guests in the background: each boots one kernel, once, for all tests of it."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vm.reporter import MARK

REPOSITORY = Path(__file__).parents[2]
AT_ONCE = 2
SECONDS = 3000
TAIL_LINES = 60
LONGEST = 3

# A kernel that complains has failed, whatever its programs say.
COMPLAINTS = "BUG:|Oops|WARNING:|general protection|self-detected stall|blocked for more than"

_turns = threading.Semaphore(AT_ONCE)


def guest_command(names: Sequence[str]) -> list[str]:
    """What runs in the guest."""
    pytest = shlex.join(
        ["python3", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "vm.reporter", *names]
    )
    # mawk, since a program that a guest has not got must not count as a log without complaints.
    search = shlex.quote(f"/{COMPLAINTS}/ {{ print; found = 1 }} END {{ exit found }}")
    return ["sh", "-c", f"{pytest} || exit; dmesg >/tmp/log && mawk {search} /tmp/log"]


class Guest:
    """One kernel, the tests that it was given, and what it has said of them so far."""

    def __init__(
        self, kernel: str, names: Sequence[str], command: Sequence[str] | None = None
    ) -> None:
        self.kernel = kernel
        self.names = list(names)
        self._command = command or guest_command(names)
        self._results: dict[str, dict[str, Any]] = {}
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._news = threading.Condition()
        self._process: subprocess.Popen[str] | None = None
        self._code: int | None = None
        self._stopped = self._paused = False
        self._thread = threading.Thread(target=self._run, name=f"guest {kernel}")

    def start(self) -> None:
        """Boot it as soon as fewer than two others run."""
        self._thread.start()

    def stop(self) -> None:
        """Switch it off, or never on."""
        self.resume()
        with self._news:
            self._stopped = True
            if self._process is not None:
                self._process.terminate()
        if self._thread.ident is not None:
            self._thread.join()

    def pause(self) -> None:
        """Let it stand still; its own clock does, too (`-icount`), so nothing in it can tell."""
        with self._news:
            self._paused = True
            self._send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        with self._news:
            self._paused = False
            self._send(signal.SIGCONT)

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def result(self, name: str) -> dict[str, Any]:
        """What it said of a test; waits for it.

        Raises:
            LookupError: it ended without a word about it; the message has its console's end.
        """
        with self._news:
            self._news.wait_for(lambda: name in self._results or self._code is not None)
            if name in self._results:
                return self._results[name]
            raise LookupError(f"Kernel {self.kernel} ended without this test.\n{self.end()}")

    def finish(self) -> int:
        """Wait for its end; the exit code of its tests."""
        with self._news:
            self._news.wait_for(lambda: self._code is not None)
            assert self._code is not None
            return self._code

    def end(self) -> str:
        """What it printed last."""
        return "\n".join(self._tail)

    def reported(self) -> set[str]:
        """The tests of which it has said how they ended."""
        return set(self._results)

    def time(self) -> str:
        """How long its tests took by its own clock, and which of them the longest."""
        seconds = {name: float(one["seconds"]) for name, one in self._results.items()}
        longest = sorted(seconds, key=lambda name: -seconds[name])[:LONGEST]
        each = ", ".join(f"{name.rpartition('/')[2]} {seconds[name]:.0f} s" for name in longest)
        return f"{self.kernel}: {len(seconds)} tests in {sum(seconds.values()):.0f} s; {each}"

    def _run(self) -> None:
        code = 1
        try:
            with _turns:
                code = self._boot()
        finally:
            with self._news:
                self._code = code
                self._news.notify_all()

    def _boot(self) -> int:
        words = ["hack/vm", "run", "--kernel", self.kernel, "--timeout", str(SECONDS), "--"]
        with self._news:
            if self._stopped:
                return 1
            self._process = subprocess.Popen(
                [sys.executable, *words, *self._command],
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                # The emulator is in it, too.
                process_group=0,
            )
            if self._paused:
                self._send(signal.SIGSTOP)
        with self._process as process:
            assert process.stdout is not None
            for line in process.stdout:
                self._take(line.rstrip("\n"))
        return process.returncode

    def _take(self, line: str) -> None:
        with self._news:
            if line.startswith(MARK):
                # A line that is broken is a test without a result, which fails.
                try:
                    result = json.loads(line.removeprefix(MARK))
                except ValueError:
                    self._tail.append(line)
                else:
                    self._results[result["name"]] = result
                    self._news.notify_all()
            else:
                self._tail.append(line)
