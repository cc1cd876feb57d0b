"""The cluster's objects, as large and as varied as real ones: nodes, namespaces, policies."""

from __future__ import annotations

import hashlib
import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from benchmarks.controller.client import Client

NODES: Final = "/api/v1/nodes"
NAMESPACES: Final = "/api/v1/namespaces"
POOL: Final = "example.com/pool"
TEAM: Final = "example.com/team"
FLEET: Final = "fleet"
"""The policy of every node."""
IMAGES: Final = 20
_CREATORS: Final = 12
_INSTANCE_TYPES: Final = ("m7.2xlarge", "m7.4xlarge", "c7.4xlarge", "r7.2xlarge")
_KIB: Final = 1024


@dataclass(frozen=True, slots=True)
class Scale:
    """How much there is of everything.

    Attributes:
        nodes: in as many pools of equal size as there are policies.
        namespaces: of as many teams as there are policies.
        policies: one for each pool and team.
    """

    nodes: int
    namespaces: int
    policies: int

    def pool(self, number: int) -> str:
        """The pool of a node, by the node's number."""
        return f"pool-{number % self.policies:03}"


def now() -> str:
    """The present time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def node_name(number: int) -> str:
    """The name of a node, as a cloud gives it."""
    return f"ip-10-{number >> 16 & 255}-{number >> 8 & 255}-{number & 255}.compute.internal"


def node(number: int, pool: str, *, ready: bool = True) -> dict[str, Any]:
    """What a kubelet registers and reports: labels, capacity, conditions and images."""
    name, kind = node_name(number), _INSTANCE_TYPES[number % len(_INSTANCE_TYPES)]
    zone = f"eu-central-1{'abc'[number % 3]}"
    identity = hashlib.sha256(name.encode()).hexdigest()
    resources = {
        "cpu": "16",
        "ephemeral-storage": "104845292Ki",
        "hugepages-1Gi": "0",
        "hugepages-2Mi": "0",
        "memory": f"{64 * _KIB * _KIB - number % 4096}Ki",
        "pods": "110",
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "beta.kubernetes.io/arch": "amd64",
                "beta.kubernetes.io/instance-type": kind,
                "beta.kubernetes.io/os": "linux",
                "example.com/capacity-type": "spot" if number % 5 == 0 else "on-demand",
                "example.com/image": f"image-{identity[:17]}",
                "example.com/launch-template": f"template-{identity[17:34]}",
                POOL: pool,
                "failure-domain.beta.kubernetes.io/region": "eu-central-1",
                "failure-domain.beta.kubernetes.io/zone": zone,
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "node.kubernetes.io/instance-type": kind,
                "topology.ebs.csi.aws.com/zone": zone,
                "topology.k8s.aws/zone-id": f"euc1-az{number % 3 + 1}",
                "topology.kubernetes.io/region": "eu-central-1",
                "topology.kubernetes.io/zone": zone,
            },
            "annotations": {
                "alpha.kubernetes.io/provided-node-ip": _address(number),
                "csi.volume.kubernetes.io/nodeid": json.dumps({"ebs.csi": f"i-{identity[:17]}"}),
                "node.alpha.kubernetes.io/ttl": "300",
                "volumes.kubernetes.io/controller-managed-attach-detach": "true",
            },
        },
        "spec": {"providerID": f"cloud:///{zone}/i-{identity[:17]}"},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": _address(number)},
                {"type": "InternalDNS", "address": name},
                {"type": "Hostname", "address": name},
            ],
            "capacity": resources,
            "allocatable": {**resources, "cpu": "15890m"},
            "conditions": conditions(ready=ready),
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
            "nodeInfo": {
                "machineID": identity[:32],
                "systemUUID": str(uuid.UUID(identity[:32])),
                "bootID": str(uuid.UUID(identity[32:])),
                "kernelVersion": "6.12.40-63.114.amzn2023.x86_64",
                "osImage": "Amazon Linux 2023.8.20250808",
                "containerRuntimeVersion": "containerd://2.0.5",
                "kubeletVersion": "v1.37.2",
                "kubeProxyVersion": "",
                "operatingSystem": "linux",
                "architecture": "amd64",
            },
            "images": [_image(one) for one in range(number, number + IMAGES)],
        },
    }


def conditions(*, ready: bool = True, heartbeat: bool = False) -> list[dict[str, str]]:
    """What a kubelet says of its node.

    Args:
        ready: whether it takes pods.
        heartbeat: say when it was said and nothing else, as a patch.
    """
    moment = now()
    found = []
    for kind, bad, good in (
        ("MemoryPressure", "", "KubeletHasSufficientMemory"),
        ("DiskPressure", "", "KubeletHasNoDiskPressure"),
        ("PIDPressure", "", "KubeletHasSufficientPID"),
        ("Ready", "KubeletNotReady", "KubeletReady"),
    ):
        condition = {"type": kind, "lastHeartbeatTime": moment}
        if not heartbeat:
            fine = ready or kind != "Ready"
            condition |= {
                "status": str(fine if kind == "Ready" else not fine),
                "reason": good if fine else bad,
                "message": "kubelet is posting ready status",
                "lastTransitionTime": moment,
            }
        found.append(condition)
    return found


def _address(number: int) -> str:
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def _image(number: int) -> dict[str, Any]:
    name = f"registry.example.com/platform/team-{number % 40}/service-{number % 97}"
    digest = hashlib.sha256(name.encode()).hexdigest()
    return {
        "names": [f"{name}@sha256:{digest}", f"{name}:v1.{number % 50}.{number % 7}"],
        "sizeBytes": 50_000_000 + number * 1013,
    }


def namespace(number: int, scale: Scale) -> dict[str, Any]:
    """A namespace of one of the teams."""
    team = number % scale.policies
    labels = {
        TEAM: f"team-{team:03}",
        "example.com/cost-center": f"cc-{number % 311}",
        "example.com/environment": ("production", "staging", "test")[number % 3],
        "pod-security.kubernetes.io/enforce": "restricted",
    }
    name = f"team-{team:03}-{number}"
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": labels},
    }


def policy(number: int, *, cpu_limit: str = "200m") -> dict[str, Any]:
    """The policy of one pool and one team."""
    pool = {"nodeSelector": {"matchLabels": {POOL: f"pool-{number:03}"}}}
    return _policy(f"pool-{number:03}", {TEAM: f"team-{number:03}"}, cpu_limit, pool)


def fleet_policy() -> dict[str, Any]:
    """A policy for every node."""
    return _policy(FLEET, {"example.com/environment": "production"}, "200m", {})


def _policy(
    name: str, namespaces: dict[str, str], cpu_limit: str, more: dict[str, Any]
) -> dict[str, Any]:
    no_databases = {"key": "app.kubernetes.io/component", "operator": "NotIn", "values": ["db"]}
    return {
        "apiVersion": "ksm-operator.dev/v1alpha1",
        "kind": "KSMPolicy",
        "metadata": {"name": name},
        "spec": {
            "namespaceSelector": {"matchLabels": namespaces},
            "podSelector": {"matchExpressions": [no_databases]},
            "ksmd": {"cpuLimit": cpu_limit},
            # What is measured is the controller, not its caution.
            "rollout": {"maxConcurrentNodes": "100%"},
            **more,
        },
    }


def create(client: Client, scale: Scale) -> None:
    """Make the namespaces and the nodes, Ready, several at once."""
    namespaces = (namespace(number, scale) for number in range(scale.namespaces))
    nodes = (node(number, scale.pool(number)) for number in range(scale.nodes))
    _at_once(lambda body: client.request("POST", NAMESPACES, body), namespaces)
    _at_once(lambda body: join(client, body), nodes)


def join(client: Client, body: dict[str, Any]) -> None:
    """Register a node as its kubelet does."""
    client.request("POST", NODES, body, query={"fieldManager": "kubelet"})


def _at_once(call: Callable[[dict[str, Any]], object], bodies: Iterable[dict[str, Any]]) -> None:
    with ThreadPoolExecutor(_CREATORS) as pool:
        for _ in pool.map(call, bodies):
            pass
