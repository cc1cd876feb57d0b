"""The CustomResourceDefinitions of both kinds, built from their models."""

from typing import Any, Final

from ksm_operator.api._base import GROUP, VERSION, Model, rule
from ksm_operator.api._node import KSMNode, KSMNodeSpec, KSMNodeStatus
from ksm_operator.api._policy import KSMPolicy, KSMPolicySpec
from ksm_operator.api._policy_status import UNSEEN, KSMPolicyStatus
from ksm_operator.api._schema import structural


def crds() -> dict[str, dict[str, Any]]:
    """Return the CRDs by plural name."""
    return {"ksmpolicies": _policy_crd(), "ksmnodes": _node_crd()}


def _condition(name: str, field: str = "status") -> str:
    return f'.status.conditions[?(@.type=="{name}")].{field}'


def _column(
    name: str, path: str, description: str, kind: str = "string", priority: int = 0
) -> dict[str, Any]:
    column: dict[str, Any] = {
        "name": name,
        "type": kind,
        "description": description,
        "jsonPath": path,
    }
    return {**column, "priority": priority} if priority else column


_AGE = _column("Age", ".metadata.creationTimestamp", "Since when it exists.", "date")


def _policy_crd() -> dict[str, Any]:
    spec = structural(KSMPolicySpec)
    spec["x-kubernetes-validations"] = [
        rule(
            "has(self.namespaceSelector) != has(self.namespaces)",
            "write exactly one of spec.namespaceSelector (for example matchLabels: {ksm: web}) "
            "and spec.namespaces (for example [web]): it names the pods that may share pages",
        )
    ]
    columns = [
        _column("Ready", _condition("Ready"), "Whether every node does what the policy asks."),
        _column("Mode", ".spec.mode", "Enforce, Observe or Paused."),
        _column("Nodes", ".status.nodes.summary", "Ready of matched nodes."),
        _column("Pods", ".status.pods.summary", "Merging of matched pods."),
        _column("Saved", ".status.memory.saved", "Memory given back; after a ~, what would be."),
        _column("ksmd CPU", ".status.ksmdMilliCPU", "Millicores that ksmd uses.", "integer", 1),
        _column("Isolated", _condition("Isolated"), "Nobody else merges on its nodes.", priority=1),
        _column("Reason", _condition("Ready", "reason"), "Why Ready is as it is.", priority=1),
        _AGE,
    ]
    return _crd(
        kind="KSMPolicy",
        plural="ksmpolicies",
        short_name="ksmp",
        model=KSMPolicy,
        spec=spec,
        status={**structural(KSMPolicyStatus, defaults=False), "default": UNSEEN},
        columns=columns,
    )


_WHOLE: Final = {"x-kubernetes-map-type": "atomic"}
"""For what one writer always writes as a whole: the API server then keeps no record of who wrote
which field, which is 40 % of a KSMNode's size and a sixth of the time that a write takes it."""


def _node_crd() -> dict[str, Any]:
    columns = [
        _column("Policy", ".spec.owner.name", "The policy that owns the node."),
        _column("Desired", ".spec.desiredState", "What the node shall do."),
        _column("Ready", _condition("Ready"), "Whether the node does it."),
        _column("Reason", _condition("Ready", "reason"), "What the node does."),
        _column("Pods", ".status.pods.merging", "Pods with enrolled processes.", "integer"),
        _column("Saved Bytes", ".status.memory.savedBytes", "Bytes given back.", "integer"),
        _column(
            "Estimated Bytes",
            ".status.memory.estimatedSavedBytes",
            "Bytes that merging would give back.",
            "integer",
            1,
        ),
        _column("Kernel", ".status.kernel.release", "The kernel's release.", priority=1),
        _column("Agent", ".status.agentVersion", "The agent's version.", priority=1),
        _AGE,
    ]
    return _crd(
        kind="KSMNode",
        plural="ksmnodes",
        short_name="ksmn",
        model=KSMNode,
        spec=structural(KSMNodeSpec) | _WHOLE,
        status=structural(KSMNodeStatus, defaults=False) | _WHOLE,
        columns=columns,
    )


def _crd(
    *,
    kind: str,
    plural: str,
    short_name: str,
    model: type[Model],
    spec: dict[str, Any],
    status: dict[str, Any],
    columns: list[dict[str, Any]],
) -> dict[str, Any]:
    schema = {
        "description": model.__doc__,
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "The version of this kind."},
            "kind": {"type": "string", "description": "The kind of object."},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short_name],
            },
            "scope": "Cluster",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }
