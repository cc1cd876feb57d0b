"""A control plane for one run: etcd, API server and two controllers, and nothing that runs pods.

It is instance KSM_LOCAL_CLUSTER of the local cluster, so a person's own cluster stays as it is.
A guardian of its own takes it down when this program ends, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from local_cluster import cluster, controlplane, layout, processes
from local_cluster.commands import only_one, say
from local_cluster.components import program
from local_cluster.errors import LocalClusterError

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY: Final = Path(__file__).resolve().parents[2]
OWNER: Final = layout.RUN / "benchmark"
"""Says whose cluster this is: that of the process with the number in it."""
GUARDIAN: Final = "benchmarks.controller.guardian"
API_SECONDS: Final = 120.0
TAKING_DOWN_SECONDS: Final = 90.0
_TRIES: Final = 4


class OccupiedError(Exception):
    """The instance is somebody's cluster."""


@contextlib.contextmanager
def control_plane(requests_per_second: int) -> Iterator[None]:
    """Have a control plane until the end.

    Args:
        requests_per_second: what each controller of Kubernetes may send; its own default is 20,
            and large clusters give it more.

    Raises:
        OccupiedError: the instance is in use.
    """
    if layout.INSTANCE == 0:
        raise OccupiedError("Instance 0 is a person's own cluster: set KSM_LOCAL_CLUSTER=8")
    with _guarded():
        with only_one():
            _claim()
            cluster.up_control_plane(say, *_manager_options(requests_per_second))
        yield


def _manager_options(requests_per_second: int) -> list[str]:
    """What the controller manager does here.

    Two of its controllers act on what this operator makes: pods of the DaemonSet, and KSMNodes
    whose Node is gone. The others would only be noise, and one would be wrong: the node lifecycle
    controller takes every node for lost, because kubelets renew a Lease every ten seconds, and 500
    renewals a second, which nobody here looks at, would leave this machine time for nothing else.
    """
    return [
        "--controllers=daemonset-controller,garbage-collector-controller",
        f"--kube-api-qps={requests_per_second}",
        f"--kube-api-burst={2 * requests_per_second}",
    ]


@contextlib.contextmanager
def _guarded() -> Iterator[None]:
    """Have a process of its own take the cluster down as soon as this one is gone."""
    guardian = subprocess.Popen(
        [sys.executable, "-m", GUARDIAN, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        cwd=REPOSITORY,
        # Ctrl-C is for this program, not for what cleans up behind it.
        start_new_session=True,
    )
    try:
        yield
    finally:
        assert guardian.stdin is not None
        guardian.stdin.close()
        guardian.wait(TAKING_DOWN_SECONDS)


def _claim() -> None:
    if cluster.exists():
        if not OWNER.exists() or Path(f"/proc/{OWNER.read_text().strip()}").exists():
            raise OccupiedError(
                f"{layout.NAME} is up and not this benchmark's. Take it down: "
                f"KSM_LOCAL_CLUSTER={layout.INSTANCE} make cluster-down"
            )
        cluster.down(say)
    OWNER.parent.mkdir(parents=True)
    OWNER.write_text(f"{os.getpid()}\n")


def release(owner: str) -> None:
    """Take the cluster down if it still is that process's."""
    with only_one():
        if not OWNER.exists() or OWNER.read_text().strip() != owner:
            return
        for tried in range(1, _TRIES + 1):
            try:
                cluster.down(say)
            except LocalClusterError:
                # A kubectl that outlives a killed benchmark still writes its cache.
                if tried == _TRIES:
                    raise
                time.sleep(tried)
            else:
                return


def kubectl(*arguments: str, stdin: str = "") -> str:
    """Run kubectl as root of the cluster and return what it says.

    Raises:
        subprocess.CalledProcessError: it failed; what it said is on standard error.
    """
    command = [
        str(program("kubectl")),
        f"--kubeconfig={layout.admin_kubeconfig()}",
        f"--cache-dir={layout.STATE}/kubectl-cache",
        *arguments,
    ]
    done = subprocess.run(
        command, input=stdin, stdout=subprocess.PIPE, text=True, check=True, timeout=120
    )
    return done.stdout


@contextlib.contextmanager
def manager_stopped(requests_per_second: int) -> Iterator[None]:
    """Let the controller manager stand still meanwhile, so that no pod is made."""
    service = controlplane.controller_manager(*_manager_options(requests_per_second))
    pid = processes.find(service)
    assert pid is not None, "the controller manager has ended"
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def restart_api_server() -> float:
    """Stop the API server, start it again and return the seconds that nobody answered."""
    service = controlplane.api_server()
    pid = processes.find(service)
    began = time.monotonic()
    # It would wait for its watchers, which are not told to go.
    processes.stop_pids([pid] if pid else [], patience=cluster.OUTAGE_SECONDS)
    pid = processes.start(service)
    controlplane.wait_until_ready(service, pid, API_SECONDS)
    return time.monotonic() - began
