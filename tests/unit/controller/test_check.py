import pytest

from ksm_operator.controller.check import judge_agents, judge_nodes
from unit.controller.examples import granted, merging, node, policy, state

WEB = policy("web")


@pytest.mark.parametrize(
    ("observed", "ready", "updated", "good"),
    [(2, 3, 3, True), (1, 3, 3, False), (2, 2, 3, False), (2, 3, 2, False)],
)
def test_agents_must_be_ready_and_up_to_date(
    observed: int,
    ready: int,
    updated: int,
    good: bool,  # noqa: FBT001 - a column of the table
) -> None:
    """An old agent that is ready is not what was installed."""
    daemonset = {
        "metadata": {"generation": 2, "namespace": "ksm-operator"},
        "status": {
            "observedGeneration": observed,
            "desiredNumberScheduled": 3,
            "numberReady": ready,
            "updatedNumberScheduled": updated,
        },
    }
    assert judge_agents(daemonset).good is good


def test_silent_nodes_are_named_and_unreachable_ones_forgiven() -> None:
    """A rebooting node must not fail the test of an installation."""
    nodes = {one.name: one for one in (node("n1"), node("n2"), node("n3", ready=False))}
    fine = state("n1", granted(WEB), merging(WEB))
    silent = [state("n2", granted(WEB)), state("n3", granted(WEB))]
    assert judge_nodes(nodes, [fine]).good
    finding = judge_nodes(nodes, [fine, *silent])
    assert not finding.good
    assert "1 of 2 nodes did not answer: n2" in finding.text
