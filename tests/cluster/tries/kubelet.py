"""A kubelet, with its own certificate."""

from typing import Final

from cluster.accounts import Try
from cluster.tries.objects import (
    DAEMONSET,
    HELD,
    KSM,
    LEASE,
    MACHINE,
    NEW_POLICY,
    NODE,
    OTHER,
    OWN,
    PLACED,
    POLICY,
    STATUS,
    TOKEN,
    ksm_object,
    meta,
)

RESERVED: Final = "is not allowed to "
UNRELATED: Final = "no relationship found"
NO_RIGHT: Final = 'User "system:node:node-1" cannot '
OTHERS_NODE: Final = "is not allowed to modify node"

MAY_NOT: Final = {
    "place an agent on its node": (Try("PATCH", MACHINE, meta(labels=PLACED)), RESERVED),
    "place one by its status": (Try("PATCH", f"{MACHINE}/status", meta(labels=PLACED)), RESERVED),
    "come with an agent": (
        Try(
            "POST",
            "/api/v1/nodes",
            {"kind": "Node", "metadata": {"name": "node-1", "labels": PLACED}},
        ),
        RESERVED,
    ),
    "place an agent elsewhere": (Try("PATCH", NODE, meta(labels=PLACED)), OTHERS_NODE),
    "give an order": (Try("PATCH", OWN, {"spec": {"desiredState": "Merging"}}), NO_RIGHT),
    "create a KSMNode": (Try("POST", f"{KSM}/ksmnodes", ksm_object("KSMNode", "node-1")), NO_RIGHT),
    "delete a KSMNode": (Try("DELETE", OWN), NO_RIGHT),
    "speak for an agent": (Try("PATCH", f"{OWN}/status", STATUS), NO_RIGHT),
    "speak for its agent": (Try("PATCH", f"{KSM}/ksmnodes/node-1/status", STATUS), NO_RIGHT),
    "create a policy": (Try("POST", f"{KSM}/ksmpolicies", NEW_POLICY), NO_RIGHT),
    "change a policy": (Try("PATCH", POLICY, {"spec": {"namespaces": ["a"]}}), NO_RIGHT),
    "let a policy go": (Try("PATCH", HELD, meta(finalizers=None)), NO_RIGHT),
    "change the agents": (Try("PATCH", DAEMONSET, {}), NO_RIGHT),
    "take the Lease": (Try("PATCH", LEASE, {"spec": {"holderIdentity": "me"}}), NO_RIGHT),
    "become another node's agent": (
        Try(
            "POST",
            TOKEN,
            {
                "spec": {
                    "boundObjectRef": {
                        "apiVersion": "v1",
                        "kind": "Pod",
                        "name": OTHER,
                        "uid": "0",
                    }
                }
            },
        ),
        UNRELATED,
    ),
    "become an agent of no node": (Try("POST", TOKEN, {}), UNRELATED),
}
