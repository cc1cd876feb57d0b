"""How far one node is with what its policy asks of it."""

from datetime import datetime, timedelta
from typing import Final, Literal

from ksm_operator.api import NodeReason
from ksm_operator.controller.facts import Node, NodeState, Policy, written
from ksm_operator.controller.reported import Judged

Progress = Literal["ready", "pending", "waived", "blocked", "unsupported", "external"]

_JOIN_GRACE: Final = timedelta(minutes=5)
"""A node that came, or came back, after the policy and less than this ago does not count yet: its
agent is on its way."""
STANDING_STILL: Final[dict[str, Progress]] = {
    NodeReason.BLOCKED: "blocked",
    NodeReason.UNSUPPORTED: "unsupported",
    NodeReason.EXTERNALLY_MANAGED: "external",
}
"""Reasons of `Ready` with which an agent goes no further: nobody need wait for it to move."""
_SAYS_NOTHING_OF_OTHERS: Final = frozenset(
    {
        NodeReason.EXTERNALLY_MODIFIED,
        NodeReason.MERGE_DEBT,
        NodeReason.PENDING_RELEASE,
        NodeReason.UNSUPPORTED,
    }
)
"""An administrator's hand, pods that grew, a value that waits, an old kernel: the next node fares
as it fares."""


def progress(policy: Policy, node: Node, state: NodeState | None, now: datetime) -> Progress:
    """Sort a node of a policy by what it reports; `Observed` says what the words mean."""
    condition = state.condition("Ready") if state is not None else None
    current = (
        state is not None
        and granted_to(policy, state)
        and state.spec is not None
        and state.spec.owner is not None
        and state.spec.owner.generation == policy.generation
    )
    if not node.ready or node.deleting:
        return "waived"
    if condition is not None and condition.reason == NodeReason.BLOCKED:
        return "blocked"
    if current and condition is not None:
        if condition.status == "True":
            return "ready"
        if condition.reason in STANDING_STILL:
            return STANDING_STILL[condition.reason]
    return "waived" if joining(policy, node, now) or _returning(policy, node, now) else "pending"


def joining(policy: Policy, node: Node, now: datetime) -> bool:
    """Tell whether a node has come after the policy, and only just."""
    return _only_just(node.created, policy, now)


def _returning(policy: Policy, node: Node, now: datetime) -> bool:
    """Tell whether a node is only just back, from a reboot for one: its agent begins anew.

    That takes nothing away from a policy that was ready. One that is not ready yet, or was edited,
    waits for all of its nodes.
    """
    back = node.ready_since is not None and _only_just(node.ready_since, policy, now)
    return back and _was_ready(policy)


def _was_ready(policy: Policy) -> bool:
    return any(
        one["type"] == "Ready"
        and one["status"] == "True"
        and one.get("observedGeneration") == policy.generation
        for one in policy.status.get("conditions", ())
    )


def _only_just(moment: datetime, policy: Policy, now: datetime) -> bool:
    return written(moment) > policy.created and now - moment < _JOIN_GRACE


def granted_to(policy: Policy, state: NodeState) -> bool:
    """Tell whether a node is a policy's, and not told to release."""
    return state.owner_uid == policy.uid and not state.asked_to_release


def under_way(state: NodeState) -> bool:
    """Tell whether the agent of a node has not finished, nor come to where it cannot go on.

    While it enrols, what it said of an earlier spec counts until it says something of the present
    one: an edit makes no beginner of a node.
    """
    ready = state.condition("Ready") if state.asked_to_release else _last(state, "Ready")
    return ready is None or (ready.status != "True" and ready.reason not in STANDING_STILL)


def warning(state: NodeState) -> str:
    """Return what the agent of a node said last that bodes ill for the next node, empty if nothing.

    An edit does not lift it before the agent has answered.
    """
    degraded = _last(state, "Degraded")
    if degraded is None or degraded.status != "True":
        return ""
    return "" if degraded.reason in _SAYS_NOTHING_OF_OTHERS else in_words(degraded)


def degradation(state: NodeState) -> str:
    """Return what the agent says is not as asked now, empty if all is."""
    condition = state.condition("Degraded")
    return in_words(condition) if condition is not None and condition.status == "True" else ""


def in_words(condition: Judged) -> str:
    """Return a condition's reason, and its message if it has one."""
    return f"{condition.reason}: {condition.message}" if condition.message else condition.reason


def _last(state: NodeState, kind: str) -> Judged | None:
    """Return a condition that the agent wrote for the present owner, whatever the generation."""
    if state.enrolled_uid != state.owner_uid:
        return state.condition(kind)
    return next((one for one in state.status.conditions if one.type == kind), None)
