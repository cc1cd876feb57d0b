"""What an agent obeys of what it hears."""

from typing import Any

import pytest

from ksm_operator.agent.state import State
from ksm_operator.agent.told import Told
from ksm_operator.agent.wire import (
    Node,
    NodePolicy,
    NodeSpec,
    ObjectMeta,
    Owner,
    to_json_types,
)

WHOLE = NodeSpec(
    owner=Owner(name="web", uid="a-policy", generation=1),
    granted_at="2026-11-23T06:00:00Z",
    desired_state="Merging",
    policy=NodePolicy(namespaces=("web",)),
)


def node(spec: NodeSpec, generation: int = 1) -> Node:
    """The node's KSMNode."""
    return Node(metadata=ObjectMeta(name="node", uid="u", generation=generation), spec=spec)


@pytest.mark.parametrize(
    "spec",
    [
        NodeSpec(owner=WHOLE.owner, desired_state="Merging"),
        NodeSpec(policy=WHOLE.policy, desired_state="Merging"),
        NodeSpec(owner=WHOLE.owner, desired_state="Hibernating", policy=WHOLE.policy),
    ],
    ids=["no policy", "no owner", "unknown state"],
)
def test_what_is_not_understood_changes_nothing(spec: NodeSpec) -> None:
    """A slip of the hand must not release a node: what was told before goes on, and it is said."""
    state = State("boot")
    told = Told(state)
    assert told.hear(node(WHOLE))
    assert not told.hear(node(spec, 2))
    assert told.unknown
    assert told.spec == WHOLE
    assert state.generation == 1
    assert state.told == to_json_types(WHOLE)
    assert not told.hear(node(WHOLE, 3))
    assert not told.unknown
    assert state.generation == 3


def test_only_released_releases() -> None:
    """The order to release needs no policy: that may be gone by then."""
    told = Told(State("boot"))
    told.hear(node(WHOLE))
    assert told.hear(node(NodeSpec(), 2))
    assert told.spec == NodeSpec()


def test_an_agent_goes_on_as_the_one_before_it() -> None:
    """A restart while the API server is away changes nothing."""
    told = Told(State("boot", told=to_json_types(WHOLE)))
    told.resume()
    assert told.spec == WHOLE


@pytest.mark.parametrize(
    "told_last",
    [
        {**to_json_types(WHOLE), "desiredState": "Hibernating"},
        {"owner": to_json_types(WHOLE)["owner"], "desiredState": "Merging"},
        {**to_json_types(WHOLE), "policy": "all of it"},
    ],
    ids=["unknown state", "no policy", "no spec at all"],
)
def test_what_another_version_was_told_may_not_be_understood(told_last: dict[str, Any]) -> None:
    """After a downgrade nothing is done until the API server says what is wanted."""
    told = Told(State("boot", told=told_last))
    told.resume()
    assert told.spec is None
