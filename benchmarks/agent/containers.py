"""Containers in cgroups like a kubelet's, made by a runtime as containerd's shim and conmon do."""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.cgroupfs import parse_mountinfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ksm_operator.kernel import Hierarchy

PR_SET_CHILD_SUBREAPER: Final = 36
ANSWER_SECONDS: Final = 90.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a `first` program found.

    Attributes:
        at_once: whether its first system call found it mergeable.
        seconds: from there until it was.
    """

    at_once: bool
    seconds: float


@dataclass(slots=True)
class Started:
    """A `first` program.

    Attributes:
        name: its container.
        output: where it writes its answer.
        pid: its process id.
        began: when the runtime was called, on the monotonic clock.
    """

    name: str
    output: Path
    pid: int
    began: float

    def answer(self) -> Answer | None:
        """What it has found so far: None while it is not mergeable."""
        words = self.output.read_text(encoding="ascii").split()
        return Answer(words[0] == "1", int(words[1]) / 1e6) if words else None


@dataclass(slots=True)
class PodTree:
    """Cgroups below one of our own, named as a kubelet with the cgroupfs driver names them.

    Attributes:
        hierarchy: of the memory controller.
        root: the cgroup that all are below, as /proc/PID/cgroup has it.
    """

    hierarchy: Hierarchy
    root: str = field(default_factory=lambda: f"/ksm-bench-{os.getpid()}")

    def container(self, pod_uid: str) -> tuple[str, str]:
        """A new container's id and cgroup; nothing is made yet."""
        name = secrets.token_hex(32)
        return name, f"{self.root}/kubepods/burstable/pod{pod_uid}/{name}"

    def put(self, pod_uid: str, pids: Iterable[int]) -> None:
        """Make a container of processes that run already."""
        directory = self.hierarchy.path(self.container(pod_uid)[1])
        directory.mkdir(parents=True)
        for pid in pids:
            (directory / "cgroup.procs").write_text(str(pid), encoding="ascii")

    def remove(self) -> None:
        """Remove what is left of it, in every hierarchy; its processes have ended."""
        mounts = parse_mountinfo(Path("/proc/self/mountinfo").read_text(encoding="utf-8"))
        for mount in mounts:
            top = Path(mount.mount_point) / self.root.lstrip("/")
            for path, _, _ in os.walk(top, topdown=False):
                _remove(Path(path))


def _remove(directory: Path) -> None:
    for _ in range(200):
        try:
            directory.rmdir()
        except OSError:
            time.sleep(0.02)  # the last of its processes is on its way out
        else:
            return
    directory.rmdir()


class Runtime:
    """runc or crun, used as containerd's shim and CRI-O's conmon use it.

    Attributes:
        name: the program's.
    """

    def __init__(
        self, name: str, command: Sequence[str], first: Path, folder: Path, tree: PodTree
    ) -> None:
        """Use a runtime.

        Args:
            name: the runtime's.
            command: what runs it.
            first: what its containers run.
            folder: for bundles and output.
            tree: where its containers' cgroups are.
        """
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.name = name
        self._command = (*command, "--root", str(folder / f"{name}-state"))
        self._folder = folder
        self._tree = tree
        self._running: list[Started] = []
        self._root = folder / "root"
        if not self._root.exists():
            for folder_of_root in ("proc", "dev"):
                (self._root / folder_of_root).mkdir(parents=True)
            shutil.copy(first, self._root / "first")

    def start_all(self, pod_uids: Iterable[str]) -> list[Started]:
        """Create and start one more container of each of these pods, all at once."""
        uids = list(pod_uids)
        with ThreadPoolExecutor(len(uids)) as pool:
            return list(pool.map(self.start, uids))

    def start(self, pod_uid: str) -> Started:
        """Create and start one more container of a pod."""
        name, cgroup = self._tree.container(pod_uid)
        bundle = self._folder / name
        bundle.mkdir()
        text = json.dumps(_specification(str(self._root), cgroup))
        (bundle / "config.json").write_text(text, encoding="utf-8")
        output, pid_file = bundle / "output", bundle / "pid"
        began = time.monotonic()
        with output.open("wb") as file:
            self._call(
                *("create", "--bundle", str(bundle), "--pid-file", str(pid_file), "--no-pivot"),
                name,
                output=file.fileno(),
            )
        started = Started(name, output, int(pid_file.read_text(encoding="ascii")), began)
        self._running.append(started)
        self._call("start", name)
        return started

    def execute(self, container: Started) -> Started:
        """Run one more program in a container, as `kubectl exec` does."""
        bundle = self._folder / container.name
        number = secrets.token_hex(4)
        output, pid_file = bundle / f"output-{number}", bundle / f"pid-{number}"
        began = time.monotonic()
        with output.open("wb") as file:
            self._call(
                *("exec", "--detach", "--pid-file", str(pid_file), container.name, "/first"),
                output=file.fileno(),
            )
        started = Started(container.name, output, int(pid_file.read_text(encoding="ascii")), began)
        self._running.append(started)
        return started

    def end(self) -> None:
        """End and remove all containers."""
        for one in self._running:
            os.kill(one.pid, signal.SIGKILL)
        # The first process of a container ends after those that joined it were reaped.
        for one in reversed(self._running):
            os.waitpid(one.pid, 0)
        for name in dict.fromkeys(one.name for one in self._running):
            self._call("delete", "--force", name)
            shutil.rmtree(self._folder / name)
        self._running.clear()

    def _call(self, *arguments: str, output: int = subprocess.DEVNULL) -> None:
        subprocess.run(
            [*self._command, *arguments], stdin=subprocess.DEVNULL, stdout=output, check=True
        )


def wait_for(started: Iterable[Started]) -> list[Answer]:
    """Return every answer.

    Raises:
        TimeoutError: one was not mergeable in time.
    """
    deadline = time.monotonic() + ANSWER_SECONDS
    answers = []
    for one in started:
        while (answer := one.answer()) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"not mergeable after {ANSWER_SECONDS:g} s: process {one.pid}")
            time.sleep(0.01)
        answers.append(answer)
    return answers


def _specification(root: str, cgroup: str) -> dict[str, object]:
    kinds = ("pid", "mount", "ipc", "uts", "network")
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 65534, "gid": 65534},
            "args": ["/first"],
            "env": ["PATH=/"],
            "cwd": "/",
            "noNewPrivileges": True,
        },
        "root": {"path": root},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
        ],
        "linux": {"cgroupsPath": cgroup, "namespaces": [{"type": kind} for kind in kinds]},
    }
