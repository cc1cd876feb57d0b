from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksm_operator.controller.facts import Node, NodeState, Policy
from ksm_operator.controller.nodes import Action, decide, spec_for
from unit.controller.examples import (
    AGENT_LABEL,
    EARLIER,
    NOW,
    granted,
    merging,
    node,
    policy,
    released,
    state,
)

WEB = policy("web")
DB = policy("db")


def verb(one: Node, owner: Policy | None, present: NodeState | None) -> str:
    """The step that is decided."""
    return decide(one, owner, present, NOW).verb


def test_ksmnode_comes_before_the_label() -> None:
    """An agent that starts must find what it shall do."""
    assert verb(node(), WEB, None) == "Create"
    assert verb(node(), WEB, state(spec=granted(WEB))) == "Label"
    assert verb(node(labelled=True), WEB, state(spec=granted(WEB))) == "Hold"


def test_labelled_node_without_an_owner_gets_a_ksmnode_that_says_released() -> None:
    """Nothing may be enrolled there without somebody who will release it."""
    action = decide(node(labelled=True), None, None, NOW)
    assert action.verb == "Create"
    assert action.spec is not None
    assert action.spec.to_api() == {"desiredState": "Released"}


def test_new_owner_waits_for_the_release_of_the_old_one() -> None:
    """Two domains on one node at once is what the whole hand-over exists to prevent."""
    one = node(labelled=True)
    first = decide(one, DB, state(spec=granted(WEB), status=merging(WEB)), NOW)
    assert first.verb == "Release"
    assert first.spec is not None
    assert first.spec.owner is not None
    assert first.spec.owner.uid == WEB.uid
    asked = granted(WEB, "Released")
    assert verb(one, DB, state(spec=asked, status=merging(WEB), generation=2)) == "Hold"
    assert verb(one, DB, state(spec=asked, status=released(1), generation=2)) == "Hold"
    assert verb(one, DB, state(spec=asked, status=released(2), generation=2)) == "Grant"


@pytest.mark.parametrize(
    "status",
    [
        {**released(2), "owner": {"uid": "uid-web"}},
        {**released(2), "observedGeneration": 1},
        {**released(2), "conditions": released(1)["conditions"]},
        {},
    ],
)
def test_half_a_release_is_none(status: dict[str, Any]) -> None:
    """Condition, generation and reported owner must all say it: one of them may be stale."""
    present = state(spec=granted(WEB, "Released"), status=status, generation=2)
    assert verb(node(labelled=True), DB, present) == "Hold"
    assert verb(node(labelled=True), None, present) == "Hold"


def test_label_goes_after_the_release_and_the_ksmnode_after_the_label() -> None:
    """Taken in another order, an agent would be killed at work or find no order."""
    done = state(spec=granted(WEB, "Released"), status=released())
    assert verb(node(labelled=True), None, done) == "Unlabel"
    assert verb(node(), None, done) == "Delete"


def test_release_needs_an_agent() -> None:
    """A hand-removed label must come back until the release is confirmed."""
    assert verb(node(), None, state(spec=granted(WEB, "Released"))) == "Label"


def test_edit_of_the_policy_is_passed_on_and_keeps_the_time_of_the_grant() -> None:
    """`runningPods: Skip` measures containers against that time."""
    edited = policy("web", {"mode": "Paused"}, generation=2)
    action = decide(node(labelled=True), edited, state(spec=granted(WEB)), NOW)
    assert action.verb == "Update"
    assert action.spec is not None
    assert (action.spec.desired_state, action.spec.granted_at) == ("Paused", EARLIER)


def test_owner_who_gets_the_node_back_waits_too() -> None:
    """Its selectors may have changed meanwhile, and then it is another domain."""
    present = state(spec=granted(WEB, "Released"), status=merging(WEB), generation=2)
    assert verb(node(labelled=True), WEB, present) == "Hold"
    present = state(spec=granted(WEB, "Released"), status=released(2), generation=2)
    assert verb(node(labelled=True), WEB, present) == "Grant"


def test_node_that_still_merges_for_a_stranger_is_released_first() -> None:
    """After a hand-deleted KSMNode the agent knows the old owner, and nobody else does."""
    present = state(spec=granted(DB), status=merging(WEB))
    assert verb(node(labelled=True), DB, present) == "Release"


@pytest.mark.parametrize(
    "present",
    [
        state(spec={"desiredState": "Hibernating"}),
        state(spec=granted(WEB), node_uid="uid-of-a-former-node"),
        replace(state(spec=granted(WEB)), deleting=True),
    ],
)
def test_what_is_not_understood_is_left_alone(present: NodeState) -> None:
    """A newer version's word, a former node's object and a dying object allow no conclusion."""
    assert verb(node(labelled=True), DB, present) == "Hold"
    assert verb(node(labelled=True), None, present) == "Hold"


def test_unreadable_policy_changes_nothing() -> None:
    """An older controller must not undo what a newer one granted."""
    unreadable = policy("web", {"mode": "Whatever"})
    assert verb(node(labelled=True), unreadable, state(spec=granted(WEB))) == "Hold"
    assert verb(node(), unreadable, None) == "Hold"


def test_enormous_cpu_limit_fits_the_schema() -> None:
    """`1E` is a quantity and beyond int64 in millicores; ksmd is one thread anyway."""
    spec = spec_for(policy("web", {"ksmd": {"cpuLimit": "1E"}}), EARLIER)
    assert spec.policy is not None
    assert spec.policy.ksmd.cpu_limit_milli_cpu == 1_000_000


@dataclass
class World:
    """One node with an honest agent and an API server, driven step by step."""

    one: Node
    present: NodeState | None = None
    enrolled: str | None = None

    def carry_out(self, action: Action) -> None:
        """Do what the controller decided."""
        if action.verb in ("Label", "Unlabel"):
            labels = {key: value for key, value in self.one.labels.items() if key != AGENT_LABEL}
            if action.verb == "Label":
                labels[AGENT_LABEL] = "true"
            self.one = replace(self.one, labels=labels)
        elif action.verb == "Delete":
            self.present = None
        elif action.spec is not None:
            if self.present is None:
                self.present = state(spec=action.spec.to_api())
            else:
                generation = self.present.generation + 1
                self.present = replace(self.present, spec=action.spec, generation=generation)

    def obey(self) -> None:
        """Let the agent do what it is asked, as far as its fence allows."""
        if self.present is None or self.present.spec is None or AGENT_LABEL not in self.one.labels:
            return
        spec, generation = self.present.spec, self.present.generation
        assert spec.desired_state == "Released" or spec.owner is not None
        if spec.desired_state == "Released":
            self.enrolled = None
            status = released(generation)
        else:
            assert spec.owner is not None
            # The property: whatever happened before, the controller never asks a node to merge
            # for one owner while another one's processes are enrolled.
            assert self.enrolled in (None, spec.owner.uid)
            self.enrolled = spec.owner.uid
            status = merging(WEB if spec.owner.uid == WEB.uid else DB, generation)
        fresh = state(status=status, generation=generation)
        self.present = replace(self.present, status=fresh.status)


@settings(max_examples=300)
@given(st.lists(st.sampled_from(["web", "db", "nobody", "controller", "agent"]), max_size=40))
def test_no_sequence_of_events_lets_two_owners_meet(events: list[str]) -> None:
    """Owners come and go at any moment between the steps of controller and agent."""
    world, owner = World(node()), WEB if events[:1] == ["web"] else None
    for event in events:
        if event == "controller":
            world.carry_out(decide(world.one, owner, world.present, NOW))
        elif event == "agent":
            world.obey()
        else:
            owner = {"web": WEB, "db": DB, "nobody": None}[event]
    for _ in range(12):
        world.carry_out(decide(world.one, owner, world.present, NOW))
        world.obey()
    assert world.enrolled == (owner.uid if owner else None)
    assert (AGENT_LABEL in world.one.labels) is (owner is not None)
    assert (world.present is not None) is (owner is not None)
