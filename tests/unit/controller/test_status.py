"""What the controller writes into the status of a policy."""

from datetime import timedelta

import pytest

from ksm_operator.controller.events import transitions
from ksm_operator.controller.facts import Node, written
from ksm_operator.controller.plan import plan
from ksm_operator.controller.status import (
    fleet,
    human_bytes,
    observe,
    selected_namespaces,
)
from unit.controller.examples import (
    NOW,
    condition,
    granted,
    merging,
    node,
    observing,
    policy,
    state,
)
from unit.controller.written_status import GOOD, NAMESPACES, WEB, conditions, message, status


def test_conditions_are_there_at_first_sight() -> None:
    """Without a Ready condition, tools take the object for finished."""
    first = status(WEB, [node()], [])
    assert conditions(first) == {
        "Ready": ("False", "NodesNotReady"),
        "Reconciling": ("True", "EnrollingNodes"),
        "Degraded": ("False", "AsExpected"),
        "Isolated": ("Unknown", "NodesNotReady"),
        "Conflicted": ("False", "NoConflict"),
    }
    assert {item["observedGeneration"] for item in first["conditions"]} == {1}


def test_figures_are_summed() -> None:
    """The one line of `kubectl get` is what most people will ever read."""
    nodes = [node("n1"), node("n2")]
    states = [state(name, granted(WEB), merging(WEB)) for name in ("n1", "n2")]
    ready = status(WEB, nodes, states)
    assert conditions(ready) == {"Ready": ("True", "AllNodesReady"), **GOOD}
    assert ready["nodes"]["summary"] == "2/2"
    assert ready["pods"] == {"matched": 8, "merging": 6, "skipped": 2, "summary": "6/8"}
    assert ready["memory"] == {"savedBytes": 1 << 31, "profitBytes": 1 << 30, "saved": "2.0Gi"}
    assert ready["ksmdMilliCPU"] == 40
    assert ready["namespaces"] == {"count": 1, "names": ["web-1"]}


def test_time_of_a_condition_moves_only_with_its_status() -> None:
    """People read it as "since when"."""
    before = status(WEB, [node()], [])
    again = policy("web", generation=2, status=before)
    same = status(again, [node()], [], later=timedelta(minutes=1))
    assert {item["lastTransitionTime"] for item in same["conditions"]} == {written(NOW)}
    states = [state("n1", granted(again), merging(WEB))]
    turned = status(again, [node()], states, later=timedelta(minutes=1))
    moved = {item["type"]: item["lastTransitionTime"] for item in turned["conditions"]}
    assert moved["Ready"] == written(NOW + timedelta(minutes=1))
    assert moved["Degraded"] == written(NOW)


def test_unchanged_world_gives_the_same_status() -> None:
    """Status is written only when it changes."""
    states = [state("n1", granted(WEB), merging(WEB))]
    first = status(WEB, [node()], states)
    later = status(policy("web", status=first), [node()], states, later=timedelta(hours=5))
    assert later == first


@pytest.mark.parametrize(
    ("reason", "counted", "ready", "degraded"),
    [
        ("Enrolling", None, "False", "False"),
        ("Blocked", "blocked", "False", "True"),
        ("ExternallyManaged", "externallyManaged", "False", "True"),
        ("Unsupported", "unsupported", "True", "False"),
    ],
)
def test_single_node_that_is_not_ready(
    reason: str, counted: str | None, ready: str, degraded: str
) -> None:
    """Each reason is counted as what it is; only a kernel that cannot is nobody's fault."""
    found = status(WEB, [node()], [state("n1", granted(WEB), merging(WEB, reason=reason))])
    assert conditions(found)["Ready"][0] == ready
    assert conditions(found)["Degraded"][0] == degraded
    if counted:
        assert found["nodes"][counted] == 1
    assert ("Stalled" in conditions(found)) is (reason == "Blocked")


def test_policy_tells_what_stands_in_a_nodes_way() -> None:
    """Whoever looks at the policy first must not have to search for the node's own words."""
    blocked = merging(WEB, reason="Blocked")
    blocked["conditions"][0]["message"] = "pod a/b does not fit into its limit"
    states = [state("n2", granted(WEB), blocked)]
    found = status(WEB, [node("n1"), node("n2")], states)
    said = "2 of 2 nodes not ready: n2: Blocked: pod a/b does not fit into its limit; n1"
    assert message(found, "Ready") == said
    assert "n2: Blocked: pod a/b" in message(found, "Degraded")


def test_a_release_that_cannot_go_on_is_told_to_both() -> None:
    """The old owner's people can make room for it; the new one's must know whom to ask."""
    high = policy("db", {"priority": 1})
    blocked = merging(WEB, reason="Blocked")
    blocked["conditions"][0]["message"] = "1 process keeps 96 MiB merged"
    states = [state("n1", granted(WEB, "Released"), blocked)]
    for one, other in ((WEB, high), (high, WEB)):
        found = status(one, [node("n1")], states, others=(other,))
        assert conditions(found)["Stalled"] == ("True", "NodesBlocked")
        assert conditions(found)["Degraded"] == ("True", "NodesDegraded")
        for kind in ("Stalled", "Degraded"):
            assert "n1: Blocked: 1 process keeps 96 MiB" in message(found, kind)
        assert "Reconciling" not in conditions(found)


def test_a_deletion_tells_what_holds_it_up() -> None:
    """Somebody waits in front of `kubectl delete`, and could make room."""
    going = policy("web", deleted="2026-11-23T11:59:00Z", status={"nodes": {"matched": 1}})
    blocked = merging(going, reason="Blocked")
    blocked["conditions"][0]["message"] = "1 process keeps 96 MiB merged"
    found = status(going, [node("n1")], [state("n1", granted(going, "Released"), blocked)])
    assert "1 blocked: n1: Blocked: 1 process keeps 96 MiB" in message(found, "Ready")


def test_answer_to_an_older_spec_is_none() -> None:
    """A node that was ready for the last generation is not ready for this one."""
    edited = policy("web", generation=2)
    old = state("n1", granted(edited), merging(WEB, generation=1), generation=2)
    assert conditions(status(edited, [node()], [old]))["Ready"][0] == "False"
    behind = state("n1", granted(WEB), merging(WEB))
    assert conditions(status(edited, [node()], [behind]))["Ready"][0] == "False"


def test_paused_is_ready() -> None:
    """Nothing is wrong with a policy that does what it says."""
    paused = policy("web", {"mode": "Paused"})
    states = [state("n1", granted(paused), merging(WEB, reason="Paused"))]
    assert conditions(status(paused, [node()], states))["Ready"] == ("True", "Paused")


def test_what_merging_would_give_back_is_summed() -> None:
    """Nobody is enrolled on these nodes, so they have no owner; one has not looked yet."""
    web = policy("web", {"mode": "Observe"})
    answers = [observing(3 << 30, 50 << 20), observing(1 << 30, 10 << 20), observing(None)]
    names = ["n1", "n2", "n3"]
    states = [
        state(name, granted(web, "Observing"), told)
        for name, told in zip(names, answers, strict=True)
    ]
    shown = status(web, [node(name) for name in names], states)
    assert conditions(shown) == {"Ready": ("True", "Observing"), **GOOD}
    assert "12 pods on 3 nodes would give back about 4.0Gi, give or take 60Mi" in message(
        shown, "Ready"
    )
    assert shown["memory"] == {
        "savedBytes": 0,
        "estimatedSavedBytes": 4 << 30,
        "estimatedSavedErrorBytes": 60 << 20,
        "saved": "~4.0Gi",
    }
    assert shown["pods"]["summary"] == "0/12"
    unread = status(web, [node()], [state("n1", granted(web, "Observing"), observing(None))])
    assert unread["memory"] == {"savedBytes": 0, "saved": "0"}
    assert "is being read" in message(unread, "Ready")


@pytest.mark.parametrize("nodes", [[], [node(labels={"kubernetes.io/os": "windows"})]])
def test_no_matching_nodes_is_ready(nodes: list[Node]) -> None:
    """`helm install --wait` must not hang on a cluster that grows later."""
    assert conditions(status(WEB, nodes, []))["Ready"] == ("True", "NoMatchingNodes")


def test_no_matching_pods_is_ready_and_says_so() -> None:
    """The commonest mistake is a label that no namespace has."""
    empty = {**merging(WEB), "pods": {"matched": 0, "merging": 0, "skipped": []}}
    nowhere = policy("db")
    owned = [state("n1", granted(nowhere), {**empty, "owner": {"uid": nowhere.uid}})]
    told = status(nowhere, [node()], owned)
    assert conditions(told)["Ready"] == ("True", "NoMatchingPods")
    assert "no namespace is selected" in message(told, "Ready")
    told = status(WEB, [node()], [state("n1", granted(WEB), empty)])
    assert conditions(told)["Ready"] == ("True", "NoMatchingPods")


def test_loser_names_the_winner_and_the_nodes() -> None:
    """Without that, two teams search for the reason in each other's namespaces."""
    winner = policy("db", {"priority": 1})
    lost_all = status(WEB, [node()], [], others=(winner,))
    assert conditions(lost_all)["Ready"] == ("False", "NodesLost")
    assert conditions(lost_all)["Conflicted"] == ("True", "NodesLost")
    assert "policy db owns 1 node that this one selects: n1" in message(lost_all, "Conflicted")
    assert lost_all["nodes"]["conflicted"] == 1
    won = status(winner, [node()], [], others=(WEB,))
    assert conditions(won)["Conflicted"] == ("False", "NoConflict")


def test_many_names_are_cut() -> None:
    """A message has 300 characters, and a cluster 5,000 nodes."""
    nodes = [node(f"a-rather-long-node-name-{index:04}.example.com") for index in range(5000)]
    told = message(status(WEB, nodes, []), "Ready")
    assert "and 4997 more" in told
    assert len(told) <= 300


def test_foreign_mergers_and_degraded_nodes_are_named() -> None:
    """Somebody has to look at exactly those nodes."""
    bad = merging(WEB)
    bad["conditions"][2] = condition("Isolated", "False", "ForeignMergers", 1, "qemu (12)")
    bad["conditions"][3] = condition("Degraded", "True", "SysfsReadOnly", 1, "remount /sys")
    found = status(WEB, [node()], [state("n1", granted(WEB), bad)])
    assert conditions(found)["Isolated"] == ("False", "ForeignMergers")
    assert "n1: qemu (12)" in message(found, "Isolated")
    assert conditions(found)["Degraded"] == ("True", "NodesDegraded")
    assert "n1: SysfsReadOnly: remount /sys" in message(found, "Degraded")


def test_node_that_vanished_since_the_plan_is_no_error() -> None:
    """Nodes go at any moment, also between two lines of the controller."""
    planned = plan([WEB], [node("n1")], {})
    assert observe(WEB, fleet(planned, {}, {}, {}), NOW).matched == ()


def test_unreadable_policy_is_stalled() -> None:
    """The one thing that only a person can repair."""
    unreadable = policy("web", {"mode": "Whatever"})
    found = status(unreadable, [node()], [])
    assert conditions(found)["Ready"] == ("False", "InvalidSpec")
    assert conditions(found)["Stalled"] == ("True", "InvalidSpec")
    assert "spec.mode" in message(found, "Stalled")


def test_system_namespaces_are_selected_only_by_name() -> None:
    """A label must not put the control plane into a tenant's domain."""
    assert selected_namespaces(WEB.spec, NAMESPACES, "ksm-operator") == ["web-1"]
    named = policy("p", {"namespaceSelector": None, "namespaces": ["kube-system", "absent"]})
    assert selected_namespaces(named.spec, NAMESPACES, "ksm-operator") == ["kube-system"]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1 << 20, "1.0Mi"),
        (1000, "1.0Ki"),
        (10 << 20, "10Mi"),
        (int(3.4 * (1 << 30)), "3.4Gi"),
        (-(1 << 30), "-1.0Gi"),
        (5 << 50, "5.0Pi"),
    ],
)
def test_human_bytes(count: int, text: str) -> None:
    """Three digits and a unit, as kubectl's other columns."""
    assert human_bytes(count) == text


def test_events_tell_transitions_and_nothing_else() -> None:
    """An Event per write would drown the one that matters."""
    first = status(WEB, [node()], [])
    assert transitions({}, first) == []
    ready = status(WEB, [node()], [state("n1", granted(WEB), merging(WEB))])
    assert [event.reason for event in transitions(first, ready)] == ["Ready"]
    assert transitions(ready, ready) == []
    lost = status(WEB, [node()], [], others=(policy("db", {"priority": 1}),))
    told = {event.reason: event.kind for event in transitions(ready, lost)}
    assert told == {"Conflicted": "Warning"}
    assert "ConflictResolved" in {event.reason for event in transitions(lost, ready)}
