from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.controller.facts import Node, NodeState, Policy, written
from ksm_operator.controller.nodes import decide
from ksm_operator.controller.plan import Plan, plan
from ksm_operator.controller.progress import granted_to
from ksm_operator.controller.reported import Reported
from ksm_operator.controller.rollout import Turn, World, take_turns
from unit.controller.examples import (
    EARLIER,
    NOW,
    condition,
    granted,
    merging,
    node,
    policy,
    released,
    state,
)

WEB = policy("web", {"priority": 1, "rollout": {"maxConcurrentNodes": 2}})
OLD = policy("old")
NAMES = [f"n{index}" for index in range(6)]
NODES = {name: node(name) for name in NAMES}


def turns(
    states: Mapping[str, NodeState], nodes: Mapping[str, Node], *policies: Policy
) -> tuple[Plan, dict[str, Turn]]:
    """Who owns what for now, as the controller finds it out."""
    present = {name: one.owner_uid for name, one in states.items()}
    planned = plan(policies, nodes.values(), present)
    return take_turns(planned, policies, World(nodes, states, NOW))


def waiting(
    states: Mapping[str, NodeState],
    nodes: Mapping[str, Node] = NODES,
    owner: Policy = WEB,
    *others: Policy,
) -> list[str]:
    """The nodes that may not be taken yet."""
    return list(turns(states, nodes, owner, *others)[1].get(owner.uid, Turn()).waiting)


def enrolling(name: str, **more: Any) -> NodeState:
    """A node that was granted and whose agent has not finished."""
    return state(name, granted(WEB), merging(WEB, reason="Enrolling"), **more)


def done(name: str) -> NodeState:
    """A node that merges."""
    return state(name, granted(WEB), merging(WEB))


def degraded(name: str, reason: str = "SysfsReadOnly", generation: int = 1) -> NodeState:
    """A node that merges, but not all of what was asked at generation 1."""
    status = merging(WEB)
    status["conditions"][3] = condition("Degraded", "True", reason, 1, "remount /sys")
    return state(name, granted(WEB), status, generation=generation)


def test_so_many_begin_and_the_rest_waits() -> None:
    """What goes wrong shall go wrong on a few."""
    assert waiting({}) == ["n2", "n3", "n4", "n5"]


def test_a_place_is_free_when_a_node_is_done() -> None:
    """It goes on by itself."""
    assert waiting({"n0": enrolling("n0"), "n1": done("n1")}) == ["n3", "n4", "n5"]


def test_a_degraded_node_stops_it_and_is_named() -> None:
    """The next ones would fare no better."""
    states = {"n0": degraded("n0"), "n1": done("n1")}
    found = turns(states, NODES, WEB)[1][WEB.uid]
    assert found.waiting == ("n2", "n3", "n4", "n5")
    assert found.stopped == {"n0": "SysfsReadOnly: remount /sys"}


def test_it_goes_on_once_the_node_is_mended_or_taken_out() -> None:
    """Nobody has to tell the controller."""
    assert waiting({"n0": done("n0"), "n1": done("n1")}) == ["n4", "n5"]
    without = {name: one for name, one in NODES.items() if name != "n0"}
    assert waiting({"n0": degraded("n0"), "n1": done("n1")}, without) == ["n4", "n5"]


def test_a_node_that_has_just_joined_does_not_queue() -> None:
    """A cluster that grows under load needs its memory now."""
    just = written(NOW - timedelta(minutes=1))
    nodes = {**NODES, "n5": node("n5", created=just)}
    assert waiting({}, nodes) == ["n2", "n3", "n4"]
    assert waiting({"n0": degraded("n0")}, nodes) == ["n1", "n2", "n3", "n4"]


def test_an_edit_does_not_lift_the_stop() -> None:
    """The agent has not answered to it yet."""
    assert waiting({"n0": degraded("n0", generation=2)}) == ["n1", "n2", "n3", "n4", "n5"]


@pytest.mark.parametrize(
    "reason", ["ExternallyModified", "MergeDebt", "PendingRelease", "Unsupported"]
)
def test_what_says_nothing_of_the_next_node_stops_nothing(reason: str) -> None:
    """One old kernel, or one administrator's hand, must not keep a fleet from merging."""
    assert waiting({"n0": degraded("n0", reason)}) == ["n3", "n4", "n5"]


def test_an_edit_makes_no_beginner_of_a_node() -> None:
    """Only the first enrolment is new to it."""
    edited = state("n0", granted(WEB), merging(WEB), generation=2)
    assert waiting({"n0": edited}) == ["n3", "n4", "n5"]


@pytest.mark.parametrize("reason", ["Blocked", "Unsupported", "ExternallyManaged"])
def test_a_node_that_cannot_holds_no_place(reason: str) -> None:
    """Nothing that enrolling did went wrong there, and it may stay so for days."""
    assert waiting({"n0": state("n0", granted(WEB), merging(WEB, reason=reason))}) == [
        *("n3", "n4", "n5"),
    ]


def test_a_node_that_cannot_be_released_holds_no_place() -> None:
    """It waits for memory, which nobody knows when it will be free."""
    stuck = state("n0", granted(OLD, "Released"), merging(OLD, reason="Blocked"))
    assert waiting({"n0": stuck}, NODES, WEB, OLD) == ["n3", "n4", "n5"]


def test_a_node_that_dies_of_it_holds_its_place() -> None:
    """If enrolling is what makes nodes fail, it must not go through the fleet."""
    nodes = {**NODES, **{name: node(name, ready=False) for name in ("n0", "n1")}}
    states = {name: enrolling(name) for name in ("n0", "n1")}
    assert waiting(states, nodes) == ["n2", "n3", "n4", "n5"]


def test_an_unreachable_node_waits_until_it_is_back() -> None:
    """Taken meanwhile, all of a rack would begin at once when it is back."""
    nodes = {**NODES, "n0": node("n0", ready=False)}
    assert waiting({}, nodes) == ["n0", "n3", "n4", "n5"]


def test_a_node_that_goes_takes_no_place() -> None:
    """Nothing is granted to it, so it would hold its place until it is gone."""
    nodes = {**NODES, "n0": node("n0", deleting=True)}
    assert waiting({}, nodes) == ["n3", "n4", "n5"]


def of_old(name: str, desired: str = "Merging", reason: str = "Merging") -> NodeState:
    """A node that the other policy has."""
    return state(name, granted(OLD, desired), merging(OLD, reason=reason))


def test_others_keep_their_nodes_until_their_turn() -> None:
    """A node without an owner saves nothing; and its owner goes on as if nobody wanted it."""
    states = {
        "n0": of_old("n0"),
        "n1": of_old("n1", "Released", "Releasing"),
        "n2": state("n2", granted(OLD, "Released"), released()),
    }
    nodes = {name: NODES[name] for name in states}
    planned, found = turns(states, nodes, WEB, OLD)
    assert found[WEB.uid].waiting == ("n0",)
    assert {name: owner.name for name, owner in planned.owners.items()} == {
        "n0": "old",
        "n1": "web",
        "n2": "web",
    }
    assert planned.lost == {OLD.uid: {"n1": "web", "n2": "web"}}


@pytest.mark.parametrize(
    "old",
    [
        pytest.param(policy("old", deleted=EARLIER), id="is being deleted"),
        pytest.param(
            policy("old", {"nodeSelector": {"matchLabels": {"no": "node"}}}), id="wants it no more"
        ),
        pytest.param(None, id="is gone"),
    ],
)
def test_what_nobody_wants_any_longer_is_given_back_at_once(old: Policy | None) -> None:
    """A release must not wait for the turn of whoever comes next, nor for a stopped rollout."""
    states = {"n0": degraded("n0"), **{name: of_old(name) for name in NAMES[1:]}}
    policies = [WEB] if old is None else [WEB, old]
    planned, _ = turns(states, NODES, *policies)
    for name in NAMES[1:]:
        assert decide(NODES[name], planned.owners.get(name), states[name], NOW).verb == "Release"


def test_a_state_that_cannot_be_written_takes_no_place() -> None:
    """It would hold up all others for as long as its owner is away."""
    former = state("n0", granted(OLD, "Released"), released(), node_uid="uid-of-a-former-node")
    assert waiting({"n0": former}) == ["n3", "n4", "n5"]


def test_a_labelled_node_whose_state_was_deleted_does_not_queue() -> None:
    """Its agent may have enrolled processes: somebody must be able to tell it to release."""
    nodes = {**NODES, "n5": node("n5", labelled=True)}
    assert "n5" not in waiting({"n0": degraded("n0")}, nodes)


def test_an_unreadable_policy_makes_nobody_wait() -> None:
    """It takes nothing."""
    assert waiting({}, owner=policy("web", {"ksmd": {"cpuLimit": "lots"}})) == []


class Cluster:
    """Nodes, some of them another policy's, and agents that report when they are told to.

    Attributes:
        nodes: the nodes.
        states: the KSMNodes.
        came: nodes that the policy's agents have finished once.
    """

    def __init__(self, others: set[str], limit: int) -> None:
        spec = {"priority": 1, "rollout": {"maxConcurrentNodes": limit}}
        self.policies = [policy("web", spec), OLD]
        self.nodes = dict(NODES)
        self.states = {name: of_old(name) for name in others}
        self.came: set[str] = set()

    def reconcile(self) -> None:
        """One step for every node."""
        planned, _ = turns(self.states, self.nodes, *self.policies)
        for name in NAMES:
            present = self.states.get(name)
            action = decide(self.nodes[name], planned.owners.get(name), present, NOW)
            if action.verb == "Delete":
                del self.states[name]
            elif action.verb in ("Label", "Unlabel"):
                self.nodes[name] = node(name, labelled=action.verb == "Label")
            elif action.spec is not None:
                generation = present.generation + 1 if present else 1
                made = state(name, action.spec.to_api(), generation=generation)
                said = present.status if present else Reported()
                self.states[name] = replace(made, status=said)

    def report(self, name: str) -> None:
        """The agent of a node has done what it was asked."""
        present = self.states.get(name)
        if present is None or present.spec is None or present.spec.owner is None:
            return
        if present.asked_to_release:
            status = released(present.generation)
        else:
            owner = next(one for one in self.policies if granted_to(one, present))
            status = merging(owner, present.generation)
            self.came |= {name} if owner is not OLD else set()
        spec = present.spec.to_api()
        self.states[name] = state(name, spec, status, generation=present.generation)

    def away(self, name: str) -> None:
        """The node is not Ready, or is again."""
        present = self.nodes[name]
        labelled = "ksm-operator.node-restriction.kubernetes.io/agent" in present.labels
        self.nodes[name] = node(name, ready=not present.ready, labelled=labelled)

    def enrolling(self) -> int:
        """Nodes in their first enrolment."""
        web = self.policies[0]
        return len({name for name, one in self.states.items() if granted_to(web, one)} - self.came)


EVENTS = st.one_of(
    st.just(("reconcile", "")),
    st.tuples(st.sampled_from(["report", "away"]), st.sampled_from(NAMES)),
)


@given(
    st.sets(st.sampled_from(NAMES)),
    st.integers(1, 4),
    st.lists(EVENTS, max_size=40),
)
def test_never_more_than_so_many_at_once(
    others: set[str], limit: int, events: list[tuple[str, str]]
) -> None:
    """Whatever the order in which agents report and nodes go away; and all come in the end."""
    cluster = Cluster(others, limit)
    for what, name in events:
        if what == "reconcile":
            cluster.reconcile()
        elif what == "report" and cluster.nodes[name].ready:
            cluster.report(name)
        elif what == "away":
            cluster.away(name)
        assert cluster.enrolling() <= limit
    for name in NAMES:
        if not cluster.nodes[name].ready:
            cluster.away(name)
    for _ in range(4 * len(NAMES)):
        cluster.reconcile()
        for name in NAMES:
            cluster.report(name)
    assert cluster.came == set(NAMES)
