"""Which policy owns which node: one owner per node, because the kernel has one merge pool."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from ksm_operator.api import MERGE_LABEL
from ksm_operator.controller.facts import Node, Policy

_ARCHITECTURES: Final = frozenset({"amd64", "arm64"})


@dataclass(frozen=True, slots=True)
class Plan:
    """Who shall own what.

    Attributes:
        owners: node name to the policy that shall own it; other nodes have no owner.
        lost: policy uid to the nodes that it selects and another policy owns, with that one's name.
    """

    owners: Mapping[str, Policy] = field(default_factory=dict)
    lost: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def eligible(node: Node) -> bool:
    """Tell whether a policy may have the node at all.

    An administrator may have taken it out by its label. Virtual nodes (virtual-kubelet, Fargate)
    have no host that an agent could reach.
    """
    return (
        node.operating_system == "linux"
        and node.architecture in _ARCHITECTURES
        and not node.virtual
        and node.labels.get(MERGE_LABEL) != "disabled"
    )


def plan(
    policies: Iterable[Policy], nodes: Iterable[Node], present: Mapping[str, str | None]
) -> Plan:
    """Give each eligible node one owner, or none.

    The higher priority wins; else the present owner keeps the node; else the older policy, then
    the lower name wins. A policy that is being deleted owns nothing. One that this controller
    cannot read keeps what it has.

    Args:
        policies: every policy.
        nodes: every node.
        present: node name to the uid of the policy that its KSMNode names.
    """
    living = [policy for policy in policies if policy.deleted_at is None]
    readable = sorted(
        ((policy, policy.spec) for policy in living if policy.spec is not None),
        key=lambda pair: (-pair[1].priority, pair[0].created, pair[0].name),
    )
    unreadable = {policy.uid: policy for policy in living if policy.spec is None}
    owners: dict[str, Policy] = {}
    lost: dict[str, dict[str, str]] = {}
    for node in nodes:
        if not eligible(node):
            continue
        claims = [
            (policy, spec.priority)
            for policy, spec in readable
            if spec.node_selector is None or spec.node_selector.admits(node.labels)
        ]
        holder = present.get(node.name)
        if holder in unreadable:
            owner = unreadable[holder]
        elif claims:
            owner = _winner(claims, holder)
        else:
            continue
        owners[node.name] = owner
        for policy, _ in claims:
            if policy is not owner:
                lost.setdefault(policy.uid, {})[node.name] = owner.name
    return Plan(owners, lost)


def _winner(claims: list[tuple[Policy, int]], holder: str | None) -> Policy:
    """Return the winner among claims that are sorted by priority, age and name."""
    highest = claims[0][1]
    for policy, priority in claims:
        if priority != highest:
            break
        if policy.uid == holder:
            return policy
    return claims[0][0]
