"""What to do next with one node: at most one step, decided on what was observed.

The order is what keeps domains apart: a KSMNode before the label, the release of the old owner
observed before the next one is granted, and the label away only when nothing is left to release.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from ksm_operator.api import AGENT_LABEL, KSMNodeSpec
from ksm_operator.controller.facts import Node, NodeState, Policy, written

Verb = Literal["Create", "Grant", "Update", "Release", "Label", "Unlabel", "Delete", "Hold"]


@dataclass(frozen=True, slots=True)
class Action:
    """One step for one node.

    Attributes:
        verb: what to do.
        node: the node's name.
        reason: why, for the log.
        spec: what the KSMNode's spec shall be, for Create, Grant, Update and Release.
    """

    verb: Verb
    node: str
    reason: str
    spec: KSMNodeSpec | None = None


def decide(node: Node, owner: Policy | None, state: NodeState | None, now: datetime) -> Action:
    """Return the next step for a node.

    Args:
        node: the node.
        owner: the policy that shall own it, None for none.
        state: its KSMNode, None if there is none.
        now: the time to write into a grant.
    """
    if state is None:
        return _without_state(node, owner, now)
    if state.deleting or state.spec is None:
        return Action("Hold", node.name, "the KSMNode is going or written by a newer version")
    if state.node_uid != node.uid:
        return Action("Hold", node.name, "the KSMNode belongs to a deleted node of this name")
    if owner is not None and owner.spec is None:
        return Action("Hold", node.name, "its policy cannot be read")
    if owner is None or state.owner_uid != owner.uid or state.spec.desired_state == "Released":
        return _hand_over(node, owner, state, state.spec, now)
    return _keep(node, owner, state, state.spec, now)


def _without_state(node: Node, owner: Policy | None, now: datetime) -> Action:
    if owner is not None and owner.spec is not None and not node.deleting:
        return Action("Create", node.name, "granted", spec_for(owner, written(now)))
    if labelled(node):
        # An agent runs there, or will: it must have somebody who tells it to release.
        return Action("Create", node.name, "labelled without an owner", KSMNodeSpec())
    return Action("Hold", node.name, "not owned")


def _hand_over(
    node: Node, owner: Policy | None, state: NodeState, spec: KSMNodeSpec, now: datetime
) -> Action:
    if spec.desired_state != "Released":
        why = "no policy wants the node" if owner is None else f"policy {owner.name} shall own it"
        return Action("Release", node.name, why, _released(spec))
    if not state.released:
        if not labelled(node):
            return Action("Label", node.name, "only an agent can confirm the release")
        return Action("Hold", node.name, "waiting for the release")
    if owner is not None and not node.deleting:
        return Action("Grant", node.name, "released by everyone", spec_for(owner, written(now)))
    if labelled(node):
        return Action("Unlabel", node.name, "released, no owner")
    return Action("Delete", node.name, "released, no owner, no agent")


def _keep(node: Node, owner: Policy, state: NodeState, spec: KSMNodeSpec, now: datetime) -> Action:
    seen = state.status.observed_generation == state.generation
    if seen and state.enrolled_uid not in (None, owner.uid):
        # The agent fences its node: another owner's processes are still enrolled there.
        return Action("Release", node.name, "another policy is still enrolled", _released(spec))
    wanted = spec_for(owner, spec.granted_at or written(now))
    if wanted != spec:
        return Action("Update", node.name, f"policy generation {owner.generation}", wanted)
    if not labelled(node):
        return Action("Label", node.name, "owned")
    return Action("Hold", node.name, "as planned")


def labelled(node: Node) -> bool:
    """Tell whether an agent runs on the node, or will."""
    return node.labels.get(AGENT_LABEL) == "true"


def _released(spec: KSMNodeSpec) -> KSMNodeSpec:
    """Return the spec that asks the owner's release; the owner stays named until it happened."""
    return spec.model_copy(update={"desired_state": "Released"})


def spec_for(policy: Policy, granted_at: str) -> KSMNodeSpec:
    """Return the spec of a node that the policy owns since `granted_at`."""
    assert policy.order is not None, "an unreadable policy is granted nothing"
    return policy.order.model_copy(update={"granted_at": granted_at})
