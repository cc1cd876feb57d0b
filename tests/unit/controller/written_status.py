"""The status that the controller would write for a policy, and its parts."""

from datetime import timedelta
from typing import Any

from ksm_operator.controller.facts import Namespace, Node, NodeState, Policy
from ksm_operator.controller.plan import plan
from ksm_operator.controller.rollout import World, take_turns
from ksm_operator.controller.status import (
    fleet,
    observe,
    policy_status,
)
from unit.controller.examples import (
    NOW,
    policy,
)

NAMESPACES = [
    Namespace("web-1", "1", {"ksm": "web"}),
    Namespace("other", "1", {}),
    Namespace("kube-system", "1", {"ksm": "web"}),
    Namespace("ksm-operator", "1", {"ksm": "web"}),
]


def status(
    one: Policy,
    nodes: list[Node],
    states: list[NodeState],
    *,
    others: tuple[Policy, ...] = (),
    later: timedelta = timedelta(),
) -> dict[str, Any]:
    """The status that the controller would write."""
    now = NOW + later
    by_name = {item.name: item for item in states}
    present = {name: item.owner_uid for name, item in by_name.items()}
    planned = plan([one, *others], nodes, present)
    by_node = {item.name: item for item in nodes}
    now_planned, turns = take_turns(planned, [one, *others], World(by_node, by_name, now))
    known = fleet(now_planned, turns, by_node, by_name)
    observed = observe(one, known, now)
    return policy_status(
        one,
        observed,
        known=known,
        namespaces=NAMESPACES,
        operator_namespace="ksm-operator",
        now=now,
    )


def conditions(written_status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Type to status and reason."""
    return {item["type"]: (item["status"], item["reason"]) for item in written_status["conditions"]}


def message(written_status: dict[str, Any], kind: str) -> str:
    """The message of one condition."""
    return next(
        str(item["message"]) for item in written_status["conditions"] if item["type"] == kind
    )


WEB = policy("web")
GOOD = {
    "Degraded": ("False", "AsExpected"),
    "Isolated": ("True", "NoForeignMergers"),
    "Conflicted": ("False", "NoConflict"),
}
