"""What an agent that starts anew says of its node."""

import time
from pathlib import Path

import msgspec
import pytest

from ksm_operator.agent.agent import Agent
from ksm_operator.agent.client import Access, Client
from ksm_operator.agent.host import Obstacle
from ksm_operator.agent.identity import Identity
from ksm_operator.agent.metrics import Metrics
from ksm_operator.agent.news import Listed
from ksm_operator.agent.state import State
from ksm_operator.agent.wire import Node, NodeSpec, NodeStatus, ObjectMeta, to_json_types

SPEC = NodeSpec(desired_state="Released")
LONG_AGO = "2020-01-01T00:00:00Z"


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    """Started on a node where nothing can be done, told by an earlier one what to do."""
    nowhere = Client(Access("https://127.0.0.1:9", tmp_path / "token", tmp_path / "ca"))
    state = State("a-boot", told=to_json_types(SPEC), generation=1)
    agent = Agent(
        Identity("n1", "", tmp_path / "state.json", "2"),
        nowhere,
        Obstacle("Unsupported", "no KSM"),
        state,
        Metrics("2"),
    )
    agent._told.resume()
    return agent


def offered(agent: Agent) -> NodeStatus | None:
    """What it has to say now."""
    agent._schedule.happened = True
    agent._schedule._report = 0.0
    agent._speak()
    return agent._writer._offered


def test_times_of_conditions_go_on_over_a_restart(agent: Agent) -> None:
    """Who waits for a condition to be old enough would wait anew after each upgrade."""
    agent._began = time.monotonic() + 3600.0
    assert offered(agent) is None, "it has not heard yet what was said before"
    agent._began -= 7200.0
    first = offered(agent)
    assert first is not None, "the API server may be away for hours"
    before = tuple(
        msgspec.structs.replace(one, last_transition_time=LONG_AGO) for one in first.conditions
    )
    node = Node(ObjectMeta(name="n1", uid="u"), SPEC, NodeStatus(conditions=before))
    agent._hear(Listed(agent._watches.node, (node,)))
    second = offered(agent)
    assert second is not None
    assert {one.last_transition_time for one in second.conditions} == {LONG_AGO}


def test_a_node_without_an_object_is_spoken_of_at_once(agent: Agent) -> None:
    """There is nothing to go on from."""
    agent._hear(Listed(agent._watches.node, ()))
    assert offered(agent) is not None
