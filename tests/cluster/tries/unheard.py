"""Writes that say more than they may: allowed, and without effect beyond their part."""

from typing import Final

from cluster.accounts import Try
from cluster.tries.objects import (
    FINALIZER,
    FOREIGN,
    NODE,
    OWN,
    OWNER,
    PLACED,
    POLICY,
    STATUS,
    meta,
)

UNHEARD: Final = {
    "an agent's status": (
        Try(
            "PATCH",
            f"{OWN}/status",
            {
                **meta(labels={"a": "b"}, finalizers=[FOREIGN], ownerReferences=[OWNER]),
                "spec": {"desiredState": "Merging"},
                **STATUS,
            },
        ),
        "status",
    ),
    "a policy's status": (
        Try(
            "PATCH",
            f"{POLICY}/status",
            {
                **meta(labels={"a": "b"}, finalizers=[FOREIGN], ownerReferences=[OWNER]),
                "spec": {"namespaces": ["kube-system"]},
                "status": {"ksmdMilliCPU": 1},
            },
        ),
        "status",
    ),
    "a KSMNode's order": (
        Try("PATCH", OWN, {"spec": {"desiredState": "Paused"}, **STATUS}),
        "spec",
    ),
    "a policy's finalizers": (
        Try("PATCH", POLICY, {**meta(finalizers=[FINALIZER]), "status": {"ksmdMilliCPU": 1}}),
        "metadata",
    ),
    "a node's label": (
        Try("PATCH", NODE, {**meta(labels=PLACED), "status": {"capacity": {"cpu": "1000"}}}),
        "metadata",
    ),
}
