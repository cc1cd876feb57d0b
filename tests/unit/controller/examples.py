"""Values that the controller's tests start from."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ksm_operator.api import FINALIZER, GROUP, VERSION
from ksm_operator.controller import facts
from ksm_operator.controller.facts import Node, NodeState, Policy
from ksm_operator.controller.nodes import spec_for

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
EARLIER = "2026-11-23T06:00:00Z"
AGENT_LABEL = "ksm-operator.node-restriction.kubernetes.io/agent"


def policy(
    name: str = "web",
    spec: Mapping[str, Any] | None = None,
    *,
    created: str = EARLIER,
    uid: str | None = None,
    generation: int = 1,
    deleted: str | None = None,
    status: Mapping[str, Any] | None = None,
) -> Policy:
    """A policy as the API server returns it."""
    metadata = {
        "name": name,
        "uid": uid or f"uid-{name}"[:36],
        "resourceVersion": "7",
        "generation": generation,
        "creationTimestamp": created,
        "finalizers": [FINALIZER],
    }
    if deleted is not None:
        metadata["deletionTimestamp"] = deleted
    whole = {"namespaceSelector": {"matchLabels": {"ksm": name}}, **(spec or {})}
    return facts.policy(
        {
            "apiVersion": f"{GROUP}/{VERSION}",
            "metadata": metadata,
            "spec": whole,
            "status": status or {},
        }
    )


def node(
    name: str = "n1",
    *,
    labels: Mapping[str, str] | None = None,
    labelled: bool = False,
    ready: bool = True,
    created: str = EARLIER,
    deleting: bool = False,
    taints: tuple[str, ...] = (),
    since: str = EARLIER,
) -> Node:
    """A node as the API server returns it."""
    readiness = {
        "type": "Ready",
        "status": "True" if ready else "Unknown",
        "lastTransitionTime": since,
    }
    mine = {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", **(labels or {})}
    if labelled:
        mine[AGENT_LABEL] = "true"
    metadata: dict[str, Any] = {
        "name": name,
        "uid": f"uid-{name}",
        "resourceVersion": "3",
        "creationTimestamp": created,
        "labels": mine,
    }
    if deleting:
        metadata["deletionTimestamp"] = EARLIER
    return facts.node(
        {
            "metadata": metadata,
            "spec": {"taints": [{"key": key, "effect": "NoSchedule"} for key in taints]},
            "status": {"conditions": [readiness]},
        }
    )


def condition(
    kind: str, status: str, reason: str, generation: int, message: str = ""
) -> dict[str, Any]:
    """A condition as an agent writes it."""
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": generation,
        "lastTransitionTime": EARLIER,
    }


def state(
    name: str = "n1",
    spec: Mapping[str, Any] | None = None,
    status: Mapping[str, Any] | None = None,
    *,
    generation: int = 1,
    node_uid: str | None = None,
) -> NodeState:
    """A KSMNode as the API server returns it."""
    owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": node_uid or f"uid-{name}"}
    return facts.node_state(
        {
            "metadata": {
                "name": name,
                "uid": f"uid-state-{name}",
                "resourceVersion": "5",
                "generation": generation,
                "ownerReferences": [owner],
            },
            "spec": dict(spec or {}),
            "status": dict(status or {}),
        }
    )


def merging(owner: Policy, generation: int = 1, reason: str = "Merging") -> dict[str, Any]:
    """The status of an agent that does what the owner asks, or says why not."""
    truth = "True" if reason in ("Merging", "Paused") else "False"
    return {
        "observedGeneration": generation,
        "owner": {"uid": owner.uid},
        "pods": {"matched": 4, "merging": 3, "skipped": [{"reason": "OptedOut", "count": 1}]},
        "memory": {"savedBytes": 1 << 30, "profitBytes": 1 << 29},
        "ksmdMilliCPU": 20,
        "conditions": [
            condition("Ready", truth, reason, generation),
            condition("Released", "False", "NotReleased", generation),
            condition("Isolated", "True", "NoForeignMergers", generation),
            condition("Degraded", "False", "AsExpected", generation),
        ],
    }


def observing(saved: int | None, error: int = 0) -> dict[str, Any]:
    """The status of an agent that merges nothing, and has perhaps found out what it would give."""
    figures = {"estimatedSavedBytes": saved, "estimatedSavedErrorBytes": error}
    return {
        "observedGeneration": 1,
        "pods": {"matched": 4, "merging": 0},
        "memory": {"availableBytes": 1 << 30} | (figures if saved is not None else {}),
        "conditions": [
            condition("Ready", "True", "Observing", 1),
            condition("Released", "True", "Released", 1),
            condition("Isolated", "True", "NoForeignMergers", 1),
            condition("Degraded", "False", "AsExpected", 1),
        ],
    }


def released(generation: int = 1) -> dict[str, Any]:
    """The status of an agent that gave everything back."""
    return {
        "observedGeneration": generation,
        "conditions": [
            condition("Ready", "True", "Released", generation),
            condition("Released", "True", "Released", generation),
        ],
    }


def granted(owner: Policy, desired: str = "Merging") -> dict[str, Any]:
    """The spec of a node that the policy owns, or that gives back what it merged."""
    return {**spec_for(owner, EARLIER).to_api(), "desiredState": desired}
