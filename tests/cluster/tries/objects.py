"""What the writes are about."""

from typing import Any, Final

from cluster.operator_release import AGENT_LABEL, NAMESPACE

OTHER: Final = "admission-test"
"""A node without a machine, its KSMNode, and a policy."""
NODE: Final = f"/api/v1/nodes/{OTHER}"
MACHINE: Final = "/api/v1/nodes/node-1"
KSM: Final = "/apis/ksm-operator.dev/v1alpha1"
OWN: Final = f"{KSM}/ksmnodes/{OTHER}"
POLICY: Final = f"{KSM}/ksmpolicies/{OTHER}"
HELD: Final = f"{KSM}/ksmpolicies/{OTHER}-2"
"""A policy that the operator and somebody else hold back from deletion."""
INSIDE: Final = f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets"
DAEMONSET: Final = f"{INSIDE}/ksm-operator-agent"
LEASES: Final = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
LEASE: Final = f"{LEASES}/ksm-operator-controller"
TOKEN: Final = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/ksm-operator-agent/token"
FINALIZER: Final = "ksm-operator.dev/release"
FOREIGN: Final = "example.com/mine"
OWNER: Final = {"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "0"}
PLACED: Final = {AGENT_LABEL: "true"}
STATUS: Final = {"status": {"agentVersion": "1", "foreignMergers": []}}


def meta(**fields: Any) -> dict[str, Any]:
    """A patch of metadata alone."""
    return {"metadata": fields}


def ksm_object(kind: str, name: str, **fields: Any) -> dict[str, Any]:
    """An object of one of the operator's own kinds."""
    return {
        "apiVersion": "ksm-operator.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        **fields,
    }


NEW: Final = ksm_object("KSMNode", "new", spec={"desiredState": "Released"})
NEW_POLICY: Final = ksm_object("KSMPolicy", "new", spec={"namespaces": ["a"]})
