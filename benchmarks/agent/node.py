"""A node's part of the API, on an API server of our own, and the agent that obeys it."""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, Self

import yaml

from cluster.api import KSM_NODES

if TYPE_CHECKING:
    from types import TracebackType

    from cluster.control_plane import ControlPlane

REPOSITORY: Final = Path(__file__).resolve().parents[2]
NODE: Final = "bench"
NAMESPACE: Final = "bench"
AGENT_SECONDS: Final = 40.0
ENVIRONMENT: Final = [{"name": f"SETTING_{one}", "value": 40 * "x"} for one in range(80)]
"""It makes a pod as large as they are, some 8 KiB."""
MEMORY: Final = Path("/dev/shm")
"""A file system without a disk."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod as the API server knows it.

    Attributes:
        name: in the namespace of the benchmark.
        uid: which its cgroup is named after.
    """

    name: str
    uid: str


class Agent:
    """The command of the agent's pod, run outside of one."""

    def __init__(self, control_plane: ControlPlane, folder: Path, run: Path) -> None:
        token = folder / "token"
        token.write_text(control_plane.administrator)
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        self._log = (folder / "agent.log").open("ab")
        self.popen = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "TERM", sys.executable, "-m", "ksm_operator.agent"),
                *("--node", NODE, "--state-dir", str(run)),
                *("--server", control_plane.api.server, "--token-file", str(token)),
                *("--ca-file", str(control_plane.api.authority), "--http-port", str(port)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            cwd=REPOSITORY,
        )

    def pids(self) -> list[int]:
        """The agent, and its helper process."""
        own = self.popen.pid
        children = Path(f"/proc/{own}/task/{own}/children").read_text(encoding="ascii").split()
        return [own, *map(int, children)]

    def stop(self) -> None:
        """Stop it as the kubelet does; what is merged stays merged."""
        self.popen.terminate()
        self.popen.wait(AGENT_SECONDS)
        self._log.close()


class PlayedNode:
    """A context: one node, its namespace, its KSMNode and, from `start_agent` on, its agent.

    The agent's record is kept in memory, as under a node's /run.

    Attributes:
        agent: the one that runs; None before and between.
    """

    def __init__(self, control_plane: ControlPlane, folder: Path) -> None:
        self.agent: Agent | None = None
        self._control_plane = control_plane
        self._folder = folder
        self._run = TemporaryDirectory(dir=MEMORY)

    def __enter__(self) -> Self:
        crds = [
            yaml.safe_load(one.read_text(encoding="utf-8"))
            for one in sorted((REPOSITORY / "crds").glob("*.yaml"))
        ]
        kubectl = self._control_plane.kubectl
        kubectl.apply(
            *crds,
            {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}},
            {
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {"name": NAMESPACE, "labels": {"ksm": NAMESPACE}},
            },
            {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": "default", "namespace": NAMESPACE},
            },
        )
        kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        self._control_plane.api.create(
            KSM_NODES,
            {
                "apiVersion": "ksm-operator.dev/v1alpha1",
                "kind": "KSMNode",
                "metadata": {"name": NODE},
                "spec": {
                    "owner": {"name": "bench", "uid": secrets.token_hex(16), "generation": 1},
                    "grantedAt": "2020-01-01T00:00:00Z",
                    "desiredState": "Merging",
                    "policy": {"namespaceSelector": {"matchLabels": {"ksm": NAMESPACE}}},
                },
            },
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop_agent()
        self._run.cleanup()
        if isinstance(error, Exception):
            print((self._folder / "agent.log").read_text(encoding="utf-8")[-3000:])

    def start_agent(self) -> None:
        """Start the agent; it may not have begun to listen yet."""
        self.agent = Agent(self._control_plane, self._folder, Path(self._run.name))

    def stop_agent(self) -> None:
        """Stop it if it runs."""
        if self.agent is not None:
            self.agent.stop()
            self.agent = None

    def select(self, app: str) -> None:
        """Edit the policy so that it selects pods with this label alone."""
        selector = {"matchLabels": {"app": app}}
        patch = {"spec": {"policy": {"podSelector": selector}}}
        self._control_plane.api.merge(f"{KSM_NODES}/{NODE}", patch)

    def create_pod(self, app: str) -> Pod:
        """Create a pod that is bound to the node already, as the scheduler leaves it."""
        name = f"pod-{secrets.token_hex(4)}"
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": app}},
            "spec": {
                "nodeName": NODE,
                "containers": [{"name": "first", "image": "first", "env": ENVIRONMENT}],
                "automountServiceAccountToken": False,
            },
        }
        path = f"/api/v1/namespaces/{NAMESPACE}/pods"
        return Pod(name, self._control_plane.api.create(path, body)["metadata"]["uid"])

    def delete_pods(self) -> None:
        """Delete all of them at once, as the kubelet does when their containers have ended."""
        path = f"/api/v1/namespaces/{NAMESPACE}/pods"
        self._control_plane.kubectl(
            "delete", "pods", "--all", "-n", NAMESPACE, "--grace-period=0", "--force", timeout=300
        )
        assert not self._control_plane.api.items(path)

    def status(self) -> dict[str, Any]:
        """What the agent says of the node."""
        found: dict[str, Any] = self._control_plane.api.get(f"{KSM_NODES}/{NODE}")
        return found.get("status") or {}

    def says(self) -> str:
        """The end of the agent's log."""
        lines = (self._folder / "agent.log").read_text(encoding="utf-8").splitlines()
        return json.dumps(lines[-5:])
