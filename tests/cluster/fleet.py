"""Nodes without machines, and what agents on them would say: for what one real node cannot show."""

from datetime import UTC, datetime
from typing import Any

from cluster.command import Kubectl
from cluster.operator_release import AGENT_SELECTOR, NAMESPACE, OF_TESTS

POOL = "ksm-operator-tests-pool"


class Fleet:
    """Nodes of one test, which lets them leave at its end.

    Nobody runs on them. Their agents' words come from `answer`, through the same part of the API.

    Attributes:
        selector: the nodeSelector of a policy for these nodes and no other.
    """

    def __init__(self, kubectl: Kubectl, pool: str) -> None:
        self._kubectl = kubectl
        self._pool = pool
        self._prefix = f"{pool}-n"
        self._names: list[str] = []
        self._joined: dict[str, str] = {}
        self.selector = {"matchLabels": {POOL: pool}}

    def leave(self) -> None:
        """Let the nodes go, and what was meant to run on them."""
        self._kubectl("delete", "nodes", *self._names, "--ignore-not-found")
        # Agents that no machine had room for; a node that goes is no news to their controller.
        unplaced = ("-l", AGENT_SELECTOR, "--field-selector=spec.nodeName=")
        self._kubectl("delete", "pods", "-n", NAMESPACE, *unplaced)

    @property
    def names(self) -> list[str]:
        """The names of all nodes."""
        return list(self._names)

    def name(self, number: int) -> str:
        """The name of a node."""
        return f"{self._prefix}{number}"

    def join(self, *numbers: int) -> None:
        """Let nodes join the cluster, Ready."""
        names = [self.name(number) for number in numbers]
        self._names = list(dict.fromkeys([*self._names, *names]))
        self._joined |= dict.fromkeys(names, _now())
        self._kubectl.apply(*map(self._manifest, names))
        for name in names:
            self._is_ready(name)

    def _manifest(self, name: str) -> dict[str, Any]:
        labels = {
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            POOL: self._pool,
            OF_TESTS: "true",
        }
        return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}

    def label(self, number: int, key: str, value: str) -> None:
        """Label a node, as an administrator does."""
        self._kubectl("label", "node", self.name(number), f"{key}={value}")

    def answer(self, number: int, reason: str, *, degraded: str = "") -> None:
        """Say for the agent of a node that it has done, or could not do, what its KSMNode asks."""
        # The cluster takes a node for lost after less than a minute without news of it.
        for name in self._names:
            self._is_ready(name)
        state = self._kubectl.get("ksmnode", self.name(number))
        generation = state["metadata"]["generation"]
        released = reason == "Released"
        done = reason in ("Merging", "Released")
        status: dict[str, Any] = {
            "observedGeneration": generation,
            "owner": None if released else {"uid": state["spec"]["owner"]["uid"]},
            "conditions": [
                _condition(kind, status, why, generation)
                for kind, status, why in (
                    ("Ready", done, reason),
                    ("Released", released, "Released" if released else "NotReleased"),
                    ("Isolated", True, "NoForeignMergers"),
                    ("Degraded", bool(degraded), degraded or "AsExpected"),
                )
            ],
        }
        patch = {"status": status}
        self._kubectl.patch("ksmnode", self.name(number), patch, "--subresource=status")

    def desired(self) -> dict[int, str]:
        """What is asked of the nodes that are asked anything, by number."""
        return {
            int(one["metadata"]["name"].removeprefix(self._prefix)): one["spec"]["desiredState"]
            for one in self._kubectl.items("ksmnodes")
            if one["metadata"]["name"].startswith(self._prefix)
        }

    def lose(self, number: int) -> None:
        """Say that nobody has heard of a node's kubelet any more."""
        self._is_ready(self.name(number), status="Unknown", reason="NodeStatusUnknown")

    def _is_ready(self, name: str, *, status: str = "True", reason: str = "KubeletReady") -> None:
        now = _now()
        ready = {
            "type": "Ready",
            "status": status,
            "reason": reason,
            "message": "",
            "lastHeartbeatTime": now,
            "lastTransitionTime": self._joined[name] if status == "True" else now,
        }
        self._kubectl.patch(
            "node", name, {"status": {"conditions": [ready]}}, "--subresource=status"
        )


def _condition(kind: str, status: bool, reason: str, generation: int) -> dict[str, Any]:  # noqa: FBT001 - a row of a table
    return {
        "type": kind,
        "status": str(status),
        "reason": reason,
        "message": "",
        "observedGeneration": generation,
        "lastTransitionTime": _now(),
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
