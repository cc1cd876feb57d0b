"""``ksm-controller check``: is a real installation in order? For ``helm test``."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from ksm_operator.controller import facts
from ksm_operator.controller.cluster import (
    KSM_NODES,
    NODES,
    POLICIES,
    Cluster,
    ClusterError,
    NotFoundError,
)
from ksm_operator.controller.conditions import shown
from ksm_operator.controller.facts import Node, NodeState

_POLL_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        good: whether it is in order.
        text: what was found, and what to do if it is not in order.
    """

    good: bool
    text: str


def check(cluster: Cluster, namespace: str, lease: str, daemonset: str, timeout: float) -> int:
    """Run every check until it passes or the time is over; print a line for each.

    Returns:
        0 when all passed, else 1.
    """
    deadline = time.monotonic() + timeout
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("kinds", lambda: _kinds(cluster)),
        ("leader", lambda: _leader(cluster, namespace, lease)),
        ("agents", lambda: _agents(cluster, namespace, daemonset)),
        ("nodes", lambda: _nodes(cluster)),
    ]
    findings = [_patiently(name, one, deadline) for name, one in checks]
    return 0 if all(finding.good for finding in findings) else 1


def _patiently(name: str, one: Callable[[], Finding], deadline: float) -> Finding:
    while True:
        try:
            finding = one()
        except ClusterError as error:
            finding = Finding(good=False, text=f"the API server says: {error}")
        if finding.good or time.monotonic() >= deadline:
            sys.stdout.write(f"{'ok  ' if finding.good else 'FAIL'} {name}: {finding.text}\n")
            sys.stdout.flush()
            return finding
        time.sleep(_POLL_SECONDS)


def _kinds(cluster: Cluster) -> Finding:
    try:
        for path in (POLICIES, KSM_NODES):
            next(cluster.pages(path))
    except NotFoundError:
        return Finding(good=False, text="the CRDs are not served: install with crds.install=true")
    return Finding(good=True, text="KSMPolicy and KSMNode are served")


def _leader(cluster: Cluster, namespace: str, name: str) -> Finding:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}"
    advice = f"see kubectl -n {namespace} logs -l app.kubernetes.io/component=controller"
    try:
        before = cluster.get(path)["spec"]
    except NotFoundError:
        return Finding(
            good=False, text=f"no Lease {namespace}/{name}: no controller ever led; {advice}"
        )
    for _ in range(4):
        time.sleep(_POLL_SECONDS)
        after = cluster.get(path)["spec"]
        if after.get("holderIdentity") and after.get("renewTime") != before.get("renewTime"):
            return Finding(good=True, text=f"{after['holderIdentity']} leads and renews its Lease")
    holder = before.get("holderIdentity") or "nobody"
    return Finding(good=False, text=f"{holder} holds the Lease and does not renew it; {advice}")


def _agents(cluster: Cluster, namespace: str, name: str) -> Finding:
    try:
        daemonset = cluster.get(f"/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}")
    except NotFoundError:
        return Finding(
            good=False,
            text=f"no DaemonSet {namespace}/{name}: the controller applies it; see its log",
        )
    return judge_agents(daemonset)


def judge_agents(daemonset: dict[str, Any]) -> Finding:
    """Tell whether every agent that shall run is updated and ready."""
    status, metadata = daemonset.get("status", {}), daemonset["metadata"]
    wanted, ready = status.get("desiredNumberScheduled", 0), status.get("numberReady", 0)
    updated = status.get("updatedNumberScheduled", 0)
    text = f"{ready} of {wanted} agents ready, {updated} up to date"
    seen = status.get("observedGeneration") == metadata["generation"]
    if not seen or ready < wanted or updated < wanted:
        where = f"kubectl -n {metadata['namespace']} get pods"
        return Finding(good=False, text=f"{text}; see {where} -l app.kubernetes.io/component=agent")
    return Finding(good=True, text=text)


def _nodes(cluster: Cluster) -> Finding:
    nodes = {node.name: node for node in map(facts.node, cluster.items(NODES))}
    states = [facts.node_state(raw) for raw in cluster.items(KSM_NODES)]
    return judge_nodes(nodes, states)


def judge_nodes(nodes: dict[str, Node], states: list[NodeState]) -> Finding:
    """Tell whether every reachable node's agent answered to what it was last asked."""
    reachable = [state for state in states if state.name in nodes and nodes[state.name].ready]
    silent = sorted(
        state.name
        for state in reachable
        if state.status.observed_generation != state.generation or state.condition("Ready") is None
    )
    if silent:
        return Finding(
            good=False,
            text=f"{len(silent)} of {len(reachable)} nodes did not answer: {shown(silent)}; "
            "see the log of the agent there",
        )
    return Finding(good=True, text=f"{len(reachable)} of {len(states)} KSMNodes answered")
