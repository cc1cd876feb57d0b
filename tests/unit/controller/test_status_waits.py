"""Nodes that a status waits for, or does not: new, away, in a rollout, in a deletion."""

from datetime import timedelta
from typing import Any

import pytest

from ksm_operator.controller.facts import Node, NodeState, written
from ksm_operator.controller.plan import plan
from ksm_operator.controller.status import (
    fleet,
    observe,
    patience_left,
)
from unit.controller.examples import (
    NOW,
    condition,
    granted,
    merging,
    node,
    policy,
    state,
)
from unit.controller.written_status import GOOD, WEB, conditions, message, status


@pytest.mark.parametrize(
    "absent",
    [
        node("n2", ready=False),
        node("n2", deleting=True),
        node("n2", created=written(NOW - timedelta(minutes=1))),
    ],
)
def test_nodes_that_come_and_go_do_not_flap_ready(absent: Node) -> None:
    """At 5,000 nodes one is always rebooting or just joining."""
    states = [state("n1", granted(WEB), merging(WEB))]
    found = status(WEB, [node("n1"), absent], states)
    assert conditions(found) == {"Ready": ("True", "AllNodesReady"), **GOOD}
    assert found["nodes"]["summary"] == "1/2"


def test_a_node_that_is_only_just_back_is_not_waited_for() -> None:
    """Every node reboots now and then, and its agent begins anew: that is no news of the policy."""
    merges = [state(name, granted(WEB), merging(WEB)) for name in ("n1", "n2")]
    ready = policy("web", status=status(WEB, [node("n1"), node("n2")], merges))
    begins = [merges[0], state("n2", granted(WEB), merging(WEB, reason="Enrolling"))]
    back = node("n2", since=written(NOW - timedelta(minutes=1)))
    found = conditions(status(ready, [node("n1"), back], begins))
    assert found["Ready"] == ("True", "AllNodesReady")
    long_back = node("n2", since=written(NOW - timedelta(minutes=6)))
    found = conditions(status(ready, [node("n1"), long_back], begins))
    assert found["Ready"] == ("False", "NodesNotReady")
    # Whoever applies or edits a policy wants to know when it is done, on this node too.
    found = conditions(status(WEB, [node("n1"), back], begins))
    assert found["Ready"] == ("False", "NodesNotReady")


def test_joined_node_counts_after_five_minutes() -> None:
    """One whose agent never comes must not stay unseen."""
    joined = node("n2", created=written(NOW - timedelta(minutes=6)))
    states = [state("n1", granted(WEB), merging(WEB))]
    found = conditions(status(WEB, [node("n1"), joined], states))
    assert found["Ready"] == ("False", "NodesNotReady")


def test_progress_of_a_deletion_is_visible() -> None:
    """Somebody waits in front of `kubectl delete`."""
    before = {"nodes": {"matched": 3}}
    going = policy("web", deleted="2026-11-23T11:59:00Z", generation=2, status=before)
    asked = granted(going, "Released")
    states = [
        state("n1", asked, merging(WEB, reason="Releasing", generation=2), generation=2),
        state("n2", asked, merging(WEB, reason="Releasing", generation=2), generation=2),
    ]
    found = status(going, [node("n1"), node("n2", ready=False), node("n3")], states)
    assert conditions(found)["Ready"] == ("False", "Terminating")
    assert conditions(found)["Reconciling"] == ("True", "ReleasingNodes")
    assert "releasing 2 of 3 nodes: n1, n2; 1 unreachable" in message(found, "Ready")
    assert found["nodes"]["summary"] == "0/3"


@pytest.mark.parametrize("reason", ["Merging", "Blocked"])
def test_unreachable_nodes_are_told_and_not_waited_for(reason: str) -> None:
    """What a machine said before it went away is no news, neither good nor bad."""
    states = [state("n1", granted(WEB), merging(WEB, reason=reason))]
    found = status(WEB, [node(ready=False)], states)
    assert conditions(found)["Ready"] == ("True", "NoMatchingNodes")
    assert "n1" in message(found, "Ready")
    assert found["nodes"]["summary"] == "0/1"


@pytest.mark.parametrize("reachable", [True, False])
def test_unreachable_node_keeps_nobody_waiting(
    reachable: bool,  # noqa: FBT001 - a column of the table
) -> None:
    """Programs that wait by kstatus would wait for as long as a machine is switched off."""
    chosen = policy("web", {"nodeSelector": {"matchLabels": {"pool": "web"}}})
    states = [state("n1", granted(chosen, "Released"), merging(chosen, reason="Releasing"))]
    found = status(chosen, [node("n1", ready=reachable)], states)
    assert ("Reconciling" in conditions(found)) is reachable
    assert found["nodes"]["releasing"] == 1


@pytest.mark.parametrize(
    ("reachable", "after", "left"), [(True, 60, 540.0), (True, 601, 0.0), (False, 60, 0.0)]
)
def test_deletion_waits_for_live_nodes_and_not_for_ever(
    reachable: bool,  # noqa: FBT001 - a column of the table
    after: int,
    left: float,
) -> None:
    """A dead node must not hold a deletion; the KSMNode carries its release on."""
    going = policy("web", deleted=written(NOW), generation=2)
    held = state("n1", granted(going, "Released"), merging(WEB, generation=2), generation=2)
    one = node("n1", ready=reachable)
    known = fleet(plan([going], [one], {}), {}, {"n1": one}, {"n1": held})
    now = NOW + timedelta(seconds=after)
    assert patience_left(going, observe(going, known, now), now) == left


def ten_nodes(*states: NodeState) -> dict[str, Any]:
    """The status of a policy that takes two nodes at once, and selects ten."""
    one = policy("web", {"rollout": {"maxConcurrentNodes": 2}})
    return status(one, [node(f"n{index}") for index in range(10)], list(states))


def test_a_rollout_tells_how_far_it_is() -> None:
    """At 500 nodes it takes its time, and nobody shall wonder whether it moves."""
    found = ten_nodes(
        state("n0", granted(WEB), merging(WEB)),
        state("n1", granted(WEB), merging(WEB, reason="Enrolling")),
        state("n2", granted(WEB, "Released"), merging(WEB, reason="Releasing")),
    )
    told = "releasing 1, enrolling 1, waiting 7, done 1 of 10 nodes: n2, n1"
    assert message(found, "Reconciling") == told
    assert conditions(found)["Ready"] == ("False", "NodesNotReady")
    assert "Stalled" not in conditions(found)


def test_a_rollout_that_is_stopped_says_by_what_and_what_to_do() -> None:
    """Once nothing moves any more, programs that wait have to give up."""
    bad = merging(WEB)
    bad["conditions"][3] = condition("Degraded", "True", "SysfsReadOnly", 1, "remount /sys")
    stopper, last = state("n0", granted(WEB), bad), granted(WEB)
    found = ten_nodes(stopper, state("n1", last, merging(WEB, reason="Enrolling")))
    assert "waiting 8 (stopped by n0)" in message(found, "Reconciling")
    found = ten_nodes(stopper, state("n1", last, merging(WEB)))
    assert conditions(found)["Stalled"] == ("True", "RolloutStopped")
    told = message(found, "Stalled")
    assert told.startswith("stopped at 2 of 10 nodes; mend these, or label them")
    assert told.endswith("ksm-operator.dev/merge=disabled: n0: SysfsReadOnly: remount /sys")
    assert "Reconciling" not in conditions(found)
