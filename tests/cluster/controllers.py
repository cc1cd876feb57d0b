"""Controllers that tests start, kill, freeze and mislead, each behind a proxy of its own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final, Self

from cluster.api_proxy import ApiProxy
from cluster.command import REPOSITORY, wait_until
from cluster.control_plane import write_kubeconfig
from cluster.operator_release import NAMESPACE, RELEASE

EXIT_SECONDS: Final = 30
SYNC_SECONDS: Final = 60
LOST: Final = "leadership lost"
"""What a controller says that ends because it could not renew the Lease, or somebody has it."""


class Nursery:
    """Starts controllers quickly; a context. See `nursery.py`."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "cluster.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            # No KUBECONFIG: it is looked at once, when the client is loaded.
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": f"{REPOSITORY}/tests:{REPOSITORY}/operator",
            },
        )
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()

    def ask(self, order: dict[str, Any]) -> dict[str, Any]:
        """Give an order, and return what it answers."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


class LocalController:
    """`ksm-controller run` as a process of this machine, with a controller's rights and no more.

    A context: it is killed at the end, if it still runs.

    Attributes:
        proxy: all that it says to the API server goes through it.
        identity: its name, as a pod's; one that is started again keeps it, as a container does.
        pid: of the process, 0 while there is none.
        exit_code: of the last process that ended.
        silence: after how many seconds without a word it gives a watch up; 0 for its own choice.
    """

    def __init__(
        self,
        nursery: Nursery,
        proxy: ApiProxy,
        token: str,
        template: Path | None,
        identity: str = "test-controller",
    ) -> None:
        self.proxy = proxy
        self.identity = identity
        self.pid = 0
        self.exit_code: int | None = None
        self.silence = 0.0
        self._nursery = nursery
        self._token = token
        self._template = template

    def __enter__(self) -> Self:
        self._temporary = tempfile.TemporaryDirectory(prefix="ksm-controller-")
        self._folder = Path(self._temporary.name)
        (self._folder / ".kube").mkdir()
        write_kubeconfig(self._folder / ".kube" / "config", self.proxy.url, self._token)
        self._read = 0
        return self

    def __exit__(self, *_: object) -> None:
        if self.pid:
            self.kill()
        self._temporary.cleanup()

    @property
    def log(self) -> str:
        """What all processes of this name have said."""
        file = self._folder / "log"
        return file.read_text() if file.exists() else ""

    @property
    def said(self) -> str:
        """What the present process has said."""
        return self.log[self._read :]

    def start(self) -> None:
        """Start it, or start it again."""
        assert not self.pid, "it runs"
        self._read = len(self.log)
        template = ("--agent-template", str(self._template)) if self._template else ()
        order = {
            "argv": [
                *("run", "--namespace", NAMESPACE, "--lease", f"{RELEASE}-controller"),
                *("--deployment", f"{RELEASE}-controller", "--http-port", "0"),
                *("--log-level", "debug", *template),
            ],
            "environment": {
                "POD_NAME": self.identity,
                "PATH": os.defpath,
                "HOME": str(self._folder),
            },
            "log": str(self._folder / "log"),
            "folder": str(self._folder),
            "silence": self.silence,
        }
        self.pid = self._nursery.ask(order)["pid"]

    def start_again_after_a_lost_lease(self) -> None:
        """Start it if it has ended by itself.

        On a machine that is busy with other things it may be too late to renew the Lease.
        """
        if self.pid and self.exited:
            if self.exit_code != 1 or LOST not in self.said:
                raise RuntimeError(f"{self.identity} ended ({self.exit_code}):\n{self.said}")
            self.start()

    def wait_until_it_works(self) -> None:
        """Wait for its first reconcile."""
        self.wait_until_it_says("first reconcile done", SYNC_SECONDS)

    def wait_until_it_says(self, words: str, seconds: float = SYNC_SECONDS) -> None:
        """Wait until the present process has said something."""
        wait_until(
            lambda: words in self.said or self._failed(), seconds, f"{self.identity} says: {words}"
        )

    def kill(self) -> None:
        """Kill it, and wait for its end."""
        self.shoot()
        self.wait_for_exit()

    def stop(self) -> None:
        """End it as the kubelet does: it gives up its turn."""
        assert self.pid, "it does not run"
        os.kill(self.pid, signal.SIGTERM)
        assert self.wait_for_exit() == 0

    def shoot(self) -> None:
        """Kill it and do not wait: for a rule of its proxy, which has no time."""
        pid = self.pid
        if pid:  # 0 would mean this process and its kin
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def freeze(self) -> None:
        """Let it stand still; the world goes on."""
        assert self.pid, "it does not run"
        os.kill(self.pid, signal.SIGSTOP)
        wait_until(lambda: self._state() == "T", 10, "the controller stands still", poll=0.01)

    def thaw(self) -> None:
        """Let it go on, as if nothing had been."""
        assert self.pid, "it does not run"
        os.kill(self.pid, signal.SIGCONT)

    def wait_for_exit(self, seconds: float = EXIT_SECONDS) -> int:
        """Wait until it has ended by itself, and return its exit code."""
        wait_until(lambda: self.exited, seconds, f"{self.identity} has ended", poll=0.02)
        assert self.exit_code is not None
        return self.exit_code

    @property
    def exited(self) -> bool:
        """Whether it has ended."""
        if self.pid:
            self.exit_code = self._nursery.ask({"poll": self.pid})["code"]
            if self.exit_code is not None:
                self.pid = 0
        return not self.pid

    def _failed(self) -> bool:
        if self.exited:
            raise RuntimeError(f"{self.identity} has ended:\n{self.said[-3000:]}")
        return False

    def _state(self) -> str:
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]

    def set_clock_wrong_by(self, seconds: float) -> None:
        """Move its wall clock."""
        new = self._folder / "clock.new"
        new.write_text(str(seconds))
        new.rename(self._folder / "clock")

    def hesitate(self, path: str) -> None:
        """Let its writes to paths with this end wait just before they are sent."""
        (self._folder / "hesitates").unlink(missing_ok=True)
        (self._folder / "hesitate").write_text(path)

    @property
    def hesitates(self) -> bool:
        """Whether a write has come to wait since."""
        return (self._folder / "hesitates").exists()

    def go_on(self) -> None:
        """Let the writes be sent."""
        (self._folder / "hesitate").unlink()
