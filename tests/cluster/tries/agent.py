"""The agent, with a token that is bound to its pod on a node."""

from typing import Final

from cluster.accounts import Try
from cluster.tries.objects import (
    FOREIGN,
    HELD,
    KSM,
    NEW,
    NEW_POLICY,
    OTHER,
    OWN,
    OWNER,
    POLICY,
    STATUS,
    ksm_object,
    meta,
)

MAY: Final = {
    "tell of its own node": Try("PATCH", f"{OWN}/status", STATUS),
    "tell it by a server-side apply": Try("APPLY", f"{OWN}/status", ksm_object("KSMNode", OTHER)),
}

MAY_NOT: Final = {
    "tell of another node": Try("PATCH", f"{OWN}-2/status", STATUS),
    "apply another node's status": Try(
        "APPLY", f"{OWN}-2/status", ksm_object("KSMNode", f"{OTHER}-2")
    ),
    "give itself an order": Try("PATCH", OWN, {"spec": {"desiredState": "Merging"}}),
    "give another an order": Try("PATCH", f"{OWN}-2", {"spec": {"desiredState": "Merging"}}),
    "label its KSMNode": Try("PATCH", OWN, meta(labels={"a": "b"})),
    "annotate its KSMNode": Try("PATCH", OWN, meta(annotations={"a": "b"})),
    "hold its KSMNode back": Try("PATCH", OWN, meta(finalizers=[FOREIGN])),
    "give its KSMNode away": Try("PATCH", OWN, meta(ownerReferences=[OWNER])),
    "create a KSMNode": Try("POST", f"{KSM}/ksmnodes", NEW),
    "apply a new KSMNode": Try("APPLY", f"{KSM}/ksmnodes/new", NEW),
    "delete its KSMNode": Try("DELETE", OWN),
    "delete another's": Try("DELETE", f"{OWN}-2"),
    "delete every KSMNode": Try("DELETE", f"{KSM}/ksmnodes"),
    "create a policy": Try("POST", f"{KSM}/ksmpolicies", NEW_POLICY),
    "change a policy": Try("PATCH", POLICY, {"spec": {"namespaces": ["kube-system"]}}),
    "let a policy go": Try("PATCH", HELD, meta(finalizers=[FOREIGN])),
    "say how a policy is": Try("PATCH", f"{POLICY}/status", {"status": {"ksmdMilliCPU": 1}}),
    "delete a policy": Try("DELETE", POLICY),
    "delete every policy": Try("DELETE", f"{KSM}/ksmpolicies"),
}
