"""The controller and the uninstallation: nodes, policies, KSMNodes, DaemonSets, Leases."""

from typing import Final

from cluster.accounts import Try
from cluster.operator_release import AGENT_LABEL, NAMESPACE
from cluster.tries.objects import (
    DAEMONSET,
    FINALIZER,
    FOREIGN,
    HELD,
    INSIDE,
    KSM,
    LEASE,
    LEASES,
    NEW,
    NEW_POLICY,
    NODE,
    OTHER,
    OWN,
    OWNER,
    PLACED,
    POLICY,
    meta,
)

MAY: Final = {
    "place an agent": Try("PATCH", NODE, meta(labels={AGENT_LABEL: "true"})),
    "withdraw an agent": Try("PATCH", NODE, meta(labels={AGENT_LABEL: None})),
    "hold a policy's deletion": Try("PATCH", POLICY, meta(finalizers=[FINALIZER])),
    "let a policy go": Try("PATCH", HELD, meta(finalizers=[FOREIGN])),
    "say how a policy is": Try("PATCH", f"{POLICY}/status", {"status": {"ksmdMilliCPU": 1}}),
    "create a KSMNode": Try("POST", f"{KSM}/ksmnodes", NEW),
    "give an order": Try("PATCH", OWN, {"spec": {"desiredState": "Paused"}}),
    "delete a KSMNode": Try("DELETE", OWN),
    "change its Lease": Try("PATCH", LEASE, {"spec": {"holderIdentity": "me"}}),
}

ONLY_LABELS: Final = ("nodes", "ksm-operator may only label nodes, not ")
ONLY_ITS_LABEL: Final = ("nodes", f"ksm-operator may only set the node label {AGENT_LABEL} to true")
NO_FIELD: Final = ("nodes", "no taint, annotation or other field")
USERS: Final = ("policies", "KSMPolicies belong to their users: ksm-operator may not ")
NO_SPEC: Final = (
    "policies",
    f"nothing of a KSMPolicy but its status and the finalizer {FINALIZER}",
)
ONE_DAEMONSET: Final = (
    "daemonset",
    f"ksm-operator may create and update only the DaemonSet {NAMESPACE}/ksm-operator-agent",
)
ONE_LEASE: Final = (
    "lease",
    f"ksm-operator may create and update only the Lease {NAMESPACE}/ksm-operator-controller",
)

MAY_NOT: Final = {
    "set another label": (Try("PATCH", NODE, meta(labels={"new": "b"})), ONLY_ITS_LABEL),
    "change another label": (Try("PATCH", NODE, meta(labels={"zone": "b"})), ONLY_ITS_LABEL),
    "remove another label": (Try("PATCH", NODE, meta(labels={"zone": None})), ONLY_ITS_LABEL),
    "hide it behind its own": (
        Try("PATCH", NODE, meta(labels={**PLACED, "zone": "b"})),
        ONLY_ITS_LABEL,
    ),
    "set its label to nonsense": (
        Try("PATCH", NODE, meta(labels={AGENT_LABEL: "yes"})),
        ONLY_ITS_LABEL,
    ),
    "annotate a node": (Try("PATCH", NODE, meta(annotations={"a": "b"})), NO_FIELD),
    "hold a node back": (Try("PATCH", NODE, meta(finalizers=[FOREIGN])), NO_FIELD),
    "give a node away": (Try("PATCH", NODE, meta(ownerReferences=[OWNER])), NO_FIELD),
    "cordon a node": (Try("PATCH", NODE, {"spec": {"unschedulable": True}}), NO_FIELD),
    "empty a node": (
        Try("PATCH", NODE, {"spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}}),
        NO_FIELD,
    ),
    "say whose machine a node is": (Try("PATCH", NODE, {"spec": {"providerID": "x"}}), NO_FIELD),
    "cordon a node as it labels it": (
        Try("PATCH", NODE, {**meta(labels=PLACED), "spec": {"unschedulable": True}}),
        NO_FIELD,
    ),
    "apply a taint": (
        Try(
            "APPLY",
            NODE,
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": OTHER},
                "spec": {"taints": [{"key": "k", "effect": "NoExecute"}]},
            },
        ),
        NO_FIELD,
    ),
    "report a node": (
        Try("PATCH", f"{NODE}/status", {"status": {"capacity": {"cpu": "1000"}}}),
        ONLY_LABELS,
    ),
    "label a node by its status": (
        Try("PATCH", f"{NODE}/status", meta(labels={"zone": "b"})),
        ONLY_LABELS,
    ),
    "create a node": (
        Try("POST", "/api/v1/nodes", {"kind": "Node", "metadata": {"name": "new"}}),
        ONLY_LABELS,
    ),
    "delete a node": (Try("DELETE", NODE), ONLY_LABELS),
    "delete every node": (Try("DELETE", "/api/v1/nodes"), ONLY_LABELS),
    "create a policy": (Try("POST", f"{KSM}/ksmpolicies", NEW_POLICY), USERS),
    "apply a new policy": (Try("APPLY", f"{KSM}/ksmpolicies/new", NEW_POLICY), USERS),
    "delete a policy": (Try("DELETE", POLICY), USERS),
    "delete every policy": (Try("DELETE", f"{KSM}/ksmpolicies"), USERS),
    "widen a policy's domain": (
        Try("PATCH", POLICY, {"spec": {"namespaces": [OTHER, "kube-system"]}}),
        NO_SPEC,
    ),
    "widen it as it lets it go": (
        Try("PATCH", HELD, {**meta(finalizers=[FOREIGN]), "spec": {"namespaces": ["a"]}}),
        NO_SPEC,
    ),
    "change how a policy merges": (Try("PATCH", POLICY, {"spec": {"mode": "Paused"}}), NO_SPEC),
    "label a policy": (Try("PATCH", POLICY, meta(labels={"a": "b"})), NO_SPEC),
    "annotate a policy": (Try("PATCH", POLICY, meta(annotations={"a": "b"})), NO_SPEC),
    "give a policy away": (Try("PATCH", POLICY, meta(ownerReferences=[OWNER])), NO_SPEC),
    "hold a policy by another name": (Try("PATCH", POLICY, meta(finalizers=[FOREIGN])), NO_SPEC),
    "let a policy go that others hold": (Try("PATCH", HELD, meta(finalizers=None)), NO_SPEC),
    "delete its DaemonSet": (Try("DELETE", DAEMONSET), ONE_DAEMONSET),
    "delete every DaemonSet": (Try("DELETE", INSIDE), ONE_DAEMONSET),
    "report its DaemonSet": (
        Try("PATCH", f"{DAEMONSET}/status", {"status": {"numberReady": 1}}),
        ONE_DAEMONSET,
    ),
    "create another Lease": (
        Try("POST", LEASES, {"kind": "Lease", "metadata": {"name": "other"}}),
        ONE_LEASE,
    ),
    "delete its Lease": (Try("DELETE", LEASE), ONE_LEASE),
}
