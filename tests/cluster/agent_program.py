"""The agent's program as a process of this machine, to be ended in every way there is."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from cluster.command import REPOSITORY, wait_until
from cluster.control_plane import ControlPlane

EXIT_SECONDS: Final = 60
_HELPER: Final = "ksm-helper\n"


class AgentProgram:
    """A context: it is killed at the end, if it still runs.

    Attributes:
        state: the folder that it keeps what it must remember in.
        server: where it finds the API server.
        pid: of the process, 0 while there is none.
    """

    def __init__(self, control_plane: ControlPlane, node: str, folder: Path) -> None:
        self.state = folder / "state"
        self.server = control_plane.api.server
        self.pid = 0
        self._log = folder / "log"
        self._log.touch()
        (folder / "token").write_text(control_plane.administrator)
        self._command = [
            *("setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "ksm_operator.agent"),
            *("--node", node, "--state-dir", str(self.state), "--http-port", "0"),
            *("--token-file", str(folder / "token")),
            *("--ca-file", str(control_plane.api.authority)),
        ]
        self._popen: subprocess.Popen[bytes] | None = None
        self._read = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.pid and not self.has_ended():
            self.kill()

    @property
    def log(self) -> str:
        """What all processes have said."""
        return self._log.read_text()

    @property
    def said(self) -> str:
        """What the present process has said, or the last one."""
        with self._log.open() as file:
            file.seek(self._read)
            return file.read()

    @property
    def record(self) -> dict[str, Any]:
        """What it remembers; empty while it has not written anything."""
        try:
            record: dict[str, Any] = json.loads((self.state / "state.json").read_bytes())
        except FileNotFoundError:
            return {}
        return record

    def start(self) -> None:
        """Start it, or the next one."""
        assert not self.pid, "it runs"
        self._read = self._log.stat().st_size
        with self._log.open("ab") as log:
            self._popen = subprocess.Popen(
                [*self._command, "--server", self.server],
                env={**os.environ, "PYTHONPATH": str(REPOSITORY / "operator")},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.pid = self._popen.pid

    def has_ended(self) -> bool:
        """Whether it has ended by itself."""
        return self._popen is not None and self._popen.poll() is not None

    @property
    def end(self) -> str:
        """How it has ended, and what it said: for a test that did not mean it to."""
        code = None if self._popen is None else self._popen.poll()
        return f"exit code {code} (below zero: a signal), after saying:\n{self.said[-3000:]}"

    def helpers(self) -> list[int]:
        """The processes that trace for it."""
        found = []
        for file in Path(f"/proc/{self.pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(pid) for pid in file.read_text().split() if _is_helper(int(pid))]
        return found

    def kill(self) -> None:
        """SIGKILL, and wait until nobody traces for it any more."""
        helpers = self.helpers()
        os.kill(self.pid, signal.SIGKILL)
        self._wait(helpers)

    def kill_helper(self) -> bool:
        """SIGKILL for whoever traces alone; False if there is nobody."""
        helpers = self.helpers()
        for pid in helpers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(helpers)

    def stop(self) -> int:
        """SIGTERM, as the kubelet ends it, and its exit code."""
        helpers = self.helpers()
        os.kill(self.pid, signal.SIGTERM)
        return self._wait(helpers)

    def wait_until_it_says(self, words: str, seconds: float) -> None:
        """Wait until the present process has said something."""
        wait_until(lambda: self.goes_on_and_said(words), seconds, f"it says: {words}", poll=0.02)

    def goes_on_and_said(self, words: str) -> bool:
        """Whether the present process has said something; it must not have ended."""
        if self.has_ended():
            raise RuntimeError(self.end)
        return words in self.said

    def _wait(self, helpers: list[int]) -> int:
        assert self._popen is not None
        code = self._popen.wait(EXIT_SECONDS)
        self.pid = 0
        # A visit that is under way is brought to its end.
        wait_until(
            lambda: not any(_is_helper(pid) for pid in helpers),
            EXIT_SECONDS,
            "the helper has ended",
            poll=0.01,
        )
        return code


def _is_helper(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text() == _HELPER
    except OSError:
        return False
