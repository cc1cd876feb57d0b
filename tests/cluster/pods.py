"""Pods that hold real memory, and their processes as the host sees them."""

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from cluster.command import Kubectl, wait_until
from cluster.traces import CLUSTER
from support.kernel import merge_any, start_time

IMAGE = "localhost/ksm-operator:dev"
PROCESSES_PER_POD = 3
"""What HOLD_MEMORY makes of a container: the first process, its fork, and an exec'ed program."""

HOLD_MEMORY = """
import ast, os, pathlib, signal, subprocess, sys, sysconfig
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
library = pathlib.Path(sysconfig.get_path("stdlib"))
files = sorted(library.glob("*.py"))
held = [[file.read_bytes() for file in files], [ast.parse(f.read_bytes()) for f in files[:12]]]
if os.fork() == 0:
    signal.pause()
subprocess.run([sys.executable, "-c", "import json, email.message, signal; signal.pause()"])
signal.pause()
"""
"""A service as they are: the standard library loaded, a worker forked, a helper program run."""

INTRUDE = """
import ctypes, os, signal
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
ctypes.CDLL(None).prctl(67, 1, 0, 0, 0)
signal.pause()
"""
"""What asks for merging by itself, as any pod may (PR_SET_MEMORY_MERGE)."""

STATUSES = ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")


@dataclass(frozen=True)
class Process:
    """A process of the host, for good: pids are used again.

    Attributes:
        pid: its number on the host.
        start: when it started, in clock ticks since boot.
    """

    pid: int
    start: int

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return start_time(self.pid) == self.start

    @property
    def merges(self) -> bool:
        """Whether it is mergeable now."""
        return merge_any(self.pid) is True


def pod(
    name: str, namespace: str, labels: dict[str, str] | None = None, program: str = HOLD_MEMORY
) -> dict[str, Any]:
    """A pod's manifest: unprivileged, restricted, quick to end."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels or {}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65534,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "main",
                    "image": IMAGE,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python3", "-c", program],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }


def _cgroups(pod_uid: str, container: str) -> list[Path]:
    """The container's cgroup in the hierarchy that has it: v1 or v2, cgroupfs or systemd names."""
    names = (f"pod{pod_uid}", f"pod{pod_uid.replace('-', '_')}")
    hierarchies = [Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")]
    hierarchy = next(one for one in hierarchies if (one / "cgroup.procs").exists())
    return [
        folder
        for folder in hierarchy.glob(f"{CLUSTER}/**/")
        if container in folder.name and any(name in folder.parent.name for name in names)
    ]


def pids_of(manifest: dict[str, Any]) -> list[int]:
    """The host's pids of a running pod's containers (its sandbox is not among them)."""
    of_all = manifest.get("status", {})
    found: list[int] = []
    for status in chain.from_iterable(of_all.get(kind, ()) for kind in STATUSES):
        container = status.get("containerID", "").rpartition("/")[2]
        for folder in _cgroups(manifest["metadata"]["uid"], container) if container else []:
            for inner in (folder, *folder.glob("**/")):
                found.extend(int(pid) for pid in (inner / "cgroup.procs").read_text().split())
    return sorted(set(found))


def processes(kubectl: Kubectl, namespace: str, *names: str) -> list[Process]:
    """The processes of a namespace's pods, or of those named."""
    found = []
    for manifest in kubectl.items("pods", "-n", namespace):
        if not names or manifest["metadata"]["name"] in names:
            for pid in pids_of(manifest):
                start = start_time(pid)
                if start is not None:
                    found.append(Process(pid, start))
    return found


def wait_for_pods(kubectl: Kubectl, namespace: str, count: int) -> list[Process]:
    """Wait until this many pods have all of their processes, and return these."""
    return wait_until(
        lambda: _complete(processes(kubectl, namespace), count),
        60,
        f"{count} pods with {PROCESSES_PER_POD} processes each in namespace {namespace}",
    )


def _complete(found: list[Process], count: int) -> list[Process]:
    return found if len(found) == count * PROCESSES_PER_POD else []


def all_merge(them: list[Process]) -> bool:
    """Whether there are processes and every one is mergeable."""
    return bool(them) and all(one.merges for one in them)


def none_merges(them: list[Process]) -> bool:
    """Whether no process is mergeable."""
    return not any(one.merges for one in them)


def assert_unharmed(kubectl: Kubectl, namespace: str, before: list[Process]) -> None:
    """Every process still lives, and no container was restarted."""
    dead = [one.pid for one in before if not one.alive]
    assert not dead, f"these processes of {namespace} died: {dead}"
    for manifest in kubectl.items("pods", "-n", namespace):
        for status in manifest["status"]["containerStatuses"]:
            assert status["restartCount"] == 0, f"{manifest['metadata']['name']}: {status}"
