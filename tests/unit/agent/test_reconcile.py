"""In which order what was told is done: who leaves, who joins, and when nothing is done at all."""

import queue
from collections.abc import Callable, Collection, Iterable
from types import SimpleNamespace

import pytest

from ksm_operator.agent.consent import Consent
from ksm_operator.agent.neighbours import Neighbours
from ksm_operator.agent.news import ForeignSeen
from ksm_operator.agent.placement import Placement
from ksm_operator.agent.reconcile import Reconciler
from ksm_operator.agent.schedule import Schedule
from ksm_operator.agent.state import Container, State
from ksm_operator.agent.told import Told
from ksm_operator.agent.view import View
from ksm_operator.agent.wire import (
    LabelSelector,
    Node,
    NodePolicy,
    NodeSpec,
    ObjectMeta,
    Owner,
    Pod,
)
from ksm_operator.kernel import Process

OLD, NEW = "/kubepods/podold/c", "/kubepods/podnew/c"
OWNER = Owner(name="web", uid="a-policy", generation=1)
POLICY = NodePolicy(namespace_selector=LabelSelector(match_labels={"ksm": "web"}))
OURS, THEIRS = ObjectMeta(name="ours", labels={"ksm": "web"}), ObjectMeta(name="theirs")


class Hands:
    """Does nothing to any machine: writes down what it was told to do, and does as it is told.

    Attributes:
        deeds: what was to be done, in order, with the containers that it is about.
        has_room: whether a release succeeds.
        takes: whether the node can be taken for an owner.
        outgoing: who has to go though his container stays.
        has_way: whether values that the kernel refuses while pages are shared are written.
    """

    manager = ""

    def __init__(self, state: State) -> None:
        self.deeds: list[tuple[str, frozenset[str]]] = []
        self.has_room = self.takes = self.has_way = True
        self.outgoing: dict[str, set[Process]] = {}
        self._state = state
        nothing = SimpleNamespace(obey=lambda _: None)
        self.enrolment = SimpleNamespace(
            consent=Consent(state),
            huge_pages=nothing,
            oldest=lambda _: None,
            outgoing=lambda: self.outgoing,
        )
        self.attention = SimpleNamespace(enrol=self._enrol)
        self.departure = SimpleNamespace(step=self._release)
        self.observation = SimpleNamespace(go_on=self._observe)

    def _enrol(self, wanted: Iterable[str], pod_of: Callable[[str], str]) -> bool:
        paths = frozenset(wanted)
        self.deeds.append(("enrol", paths))
        for path in paths - self._state.containers.keys():
            self._state.containers[path] = Container(pod_of(path), path, {Process(2, 2)})
        return True

    def _release(self, leaving: Iterable[str], reserve: int, only: Collection[str] = ()) -> bool:
        assert reserve == POLICY.release_reserve_percent
        paths = frozenset(leaving)
        if not paths:
            return True
        self.deeds.append(("release", paths))
        if self.has_room:
            for path in paths.difference(only):
                del self._state.containers[path]
            self.outgoing.clear()
        return self.has_room

    def _observe(self, wanted: Iterable[str], *_: object) -> None:
        self.deeds.append(("observe", frozenset(wanted)))

    def accept(self, *_: object) -> bool:
        """As `Obedience.accept`."""
        self.deeds.append(("accept", frozenset()))
        return self.takes

    def make_way(self, *_: object) -> bool:
        """As `Obedience.make_way`."""
        return self.has_way

    def give_back(self, *_: object) -> bool:
        """As `Obedience.give_back`."""
        self.deeds.append(("give back", frozenset()))
        return self.has_room

    def hold(self, held: bool) -> bool:  # noqa: FBT001 - as `Obedience.hold`
        """As `Obedience.hold`."""
        return held


class OneNode:
    """A node with a container that is enrolled, and one that came just now, of other pods.

    Attributes:
        reconciler: to be tested.
        hands: what it would do.
        asked: namespaces that the API server was asked for.
    """

    def __init__(self) -> None:
        self.state = State("boot", owner=OWNER.uid)
        self.state.containers[OLD] = Container("old", OLD, {Process(1, 1)})
        self.hands = Hands(self.state)
        self.told = Told(self.state)
        self.view = View()
        for path, uid in ((OLD, "old"), (NEW, "new")):
            self.view.containers[path] = Placement(uid, "c", path)
        self.view.pods_listed(pod(uid) for uid in ("old", "new"))
        self.asked: list[str] = []
        host = SimpleNamespace(
            hierarchy=SimpleNamespace(version=2), features=SimpleNamespace(ksm_stat_shows_flag=True)
        )
        neighbours = Neighbours(host, queue.SimpleQueue())  # type: ignore[arg-type] # no more of it is asked
        neighbours.hear(ForeignSeen((), frozenset(), 1))
        self.reconciler = Reconciler(
            host,  # type: ignore[arg-type] # likewise
            self.hands,  # type: ignore[arg-type] # they only write down
            neighbours,
            told=self.told,
            state=self.state,
            view=self.view,
            schedule=Schedule(),
            namespace="ksm-operator",
            ask=self.asked.append,
        )

    def tell(
        self, desired: str, policy: NodePolicy | None = POLICY, owner: Owner | None = OWNER
    ) -> None:
        """Tell the agent what the node is to do."""
        spec = NodeSpec(owner=owner, desired_state=desired, policy=policy)
        if self.told.hear(Node(metadata=ObjectMeta(name="node", uid="u"), spec=spec)):
            self.reconciler.begin_anew()

    def step(self) -> tuple[bool, dict[str, frozenset[str]]]:
        """Let it take one step, after some news: whether that was all, and what it did."""
        self.reconciler.dirty = True
        self.hands.deeds.clear()
        done = self.reconciler.reconcile()
        return done, dict(self.hands.deeds)


def pod(uid: str, merge: str = "", namespace: str = "ours") -> Pod:
    """A pod with that merge label."""
    labels = {"ksm-operator.dev/merge": merge} if merge else {}
    return Pod(name=uid, namespace=namespace, uid=uid, labels=labels)


@pytest.fixture
def node() -> OneNode:
    """A node of which everything is known."""
    made = OneNode()
    made.view.namespaces_arrived([OURS])
    made.tell("Merging")
    return made


def test_who_is_selected_joins(node: OneNode) -> None:
    """What the agent is for; and a node is settled as soon as everybody was looked at."""
    assert not node.reconciler.settled
    done, deeds = node.step()
    assert done
    assert deeds["enrol"] == {OLD, NEW}
    assert node.reconciler.settled


def test_nobody_joins_before_everybody_has_left(node: OneNode) -> None:
    """Else two domains merge with each other for as long as the release takes."""
    node.view.pod_changed(pod("old", "disabled"))
    node.hands.has_room = False
    done, deeds = node.step()
    assert not done
    assert deeds["release"] == {OLD}
    assert "enrol" not in deeds
    assert node.reconciler.leaving == 1

    node.hands.has_room = True
    done, deeds = node.step()
    assert done
    assert list(deeds) == ["accept", "release", "enrol"]
    assert deeds["enrol"] == {NEW}
    assert node.reconciler.leaving == 0


def test_who_goes_from_a_container_that_stays_keeps_nobody_out(node: OneNode) -> None:
    """He is of the domain, and may take for ever where there is no room."""
    node.hands.outgoing = {OLD: {Process(1, 1)}}
    node.hands.has_room = False
    done, deeds = node.step()
    assert not done, "he is tried again"
    assert deeds["release"] == {OLD}
    assert deeds["enrol"] == {OLD, NEW}
    assert node.reconciler.settled
    assert node.reconciler.leaving == 0

    node.hands.has_room = True
    done, deeds = node.step()
    assert done
    assert OLD in node.state.containers


def test_nobody_joins_before_the_namespaces_are_known(node: OneNode) -> None:
    """Who of the enrolled is to leave cannot be told yet, and nobody is to leave for that."""
    node.view.namespaces_reset()
    _, deeds = node.step()
    assert "release" not in deeds
    assert deeds["enrol"] == frozenset()
    node.view.namespace_changed(OURS)  # the watch brings one while the list is under way
    _, deeds = node.step()
    assert deeds["enrol"] == {OLD}
    assert not node.reconciler.settled


def test_nobody_joins_before_a_question_is_answered(node: OneNode) -> None:
    """A namespace that left the list was relabelled or lost; only the first releases its pods."""
    node.view.pod_changed(pod("old", namespace="theirs"))
    _, deeds = node.step()
    assert node.asked == ["theirs"]
    assert "release" not in deeds
    assert deeds["enrol"] == frozenset()
    assert not node.reconciler.settled

    node.view.namespace_looked_up("theirs", {}, POLICY, "ksm-operator")
    _, deeds = node.step()
    assert deeds["release"] == {OLD}
    assert deeds["enrol"] == {NEW}
    assert node.reconciler.settled


def test_another_owner_waits_until_all_is_released(node: OneNode) -> None:
    """The record on the host counts, not what the API says: it may have been restored."""
    node.tell("Merging", owner=Owner(name="db", uid="another", generation=1))
    node.hands.takes = node.hands.has_room = False
    done, deeds = node.step()
    assert not done
    assert deeds["release"] == {OLD}
    assert "enrol" not in deeds
    assert node.reconciler.leaving == 1

    node.hands.has_room = True
    _, deeds = node.step()
    assert "enrol" not in deeds
    node.hands.takes = True
    _, deeds = node.step()
    assert deeds["enrol"] == {OLD, NEW}


@pytest.mark.parametrize("owner", ["", OWNER.uid])
def test_a_node_that_cannot_be_taken_is_left_as_it_is(node: OneNode, owner: str) -> None:
    """Somebody else has it in hand, or ksmd's files cannot be written: that releases nobody."""
    node.state.owner = owner
    node.hands.takes = False
    done, deeds = node.step()
    assert done
    assert list(deeds) == ["accept"]


def test_the_way_is_made_first(node: OneNode) -> None:
    """The kernel refuses some values once somebody merges."""
    node.hands.has_way = False
    done, deeds = node.step()
    assert not done
    assert "enrol" not in deeds


@pytest.mark.parametrize(
    ("desired", "policy", "owner"),
    [("Hibernating", POLICY, OWNER), ("Merging", None, OWNER), ("Paused", POLICY, None)],
)
def test_what_is_not_understood_changes_nothing(
    node: OneNode, desired: str, policy: NodePolicy | None, owner: Owner | None
) -> None:
    """Only `Released` releases: neither a value of tomorrow's nor one that somebody edited away."""
    node.step()
    node.tell(desired, policy, owner)
    done, deeds = node.step()
    assert done
    assert deeds["enrol"] == {OLD, NEW}
    assert not deeds.keys() & {"release", "give back"}


def test_an_incomplete_order_is_no_order(node: OneNode) -> None:
    """However it came to be obeyed, the reconciler itself takes no absence for a release."""
    node.told.spec = NodeSpec(owner=OWNER, desired_state="Merging")
    assert node.step() == (True, {})


def test_nothing_is_done_before_the_first_word(node: OneNode) -> None:
    """An agent that was told nothing knows of no reason to keep or to release anything."""
    node.told.spec = None
    assert node.step() == (True, {})


@pytest.mark.parametrize(("policy", "owner"), [(POLICY, OWNER), (None, None)])
def test_released_gives_everything_back(
    node: OneNode, policy: NodePolicy | None, owner: Owner | None
) -> None:
    """Whatever stands beside it: the policy may be gone by then."""
    node.tell("Released", policy, owner)
    node.hands.has_room = False
    assert node.step() == (False, {"give back": frozenset()})
    assert node.reconciler.leaving == 1
    node.hands.has_room = True
    assert node.step() == (True, {"give back": frozenset()})


def test_observing_never_takes_the_node(node: OneNode) -> None:
    """Nothing may be written to it: what was merged is given back, and then memory is read."""
    node.tell("Observing")
    node.hands.has_room = False
    assert node.step() == (False, {"give back": frozenset()})
    node.hands.has_room = True
    done, deeds = node.step()
    assert done
    assert deeds == {"give back": frozenset(), "observe": {OLD, NEW}}


def test_paused_releases_who_leaves_and_enrols_nobody(node: OneNode) -> None:
    """What is merged stays so, but whoever says no is let go all the same."""
    node.tell("Paused")
    _, deeds = node.step()
    assert list(deeds) == ["accept"]
    node.view.pod_changed(pod("old", "disabled"))
    _, deeds = node.step()
    assert deeds["release"] == {OLD}
    assert "enrol" not in deeds
