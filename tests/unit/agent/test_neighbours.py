"""What the main loop makes of others who merge."""

import queue
import time
from types import SimpleNamespace

import pytest

from ksm_operator.agent.foreign import Candidate
from ksm_operator.agent.neighbours import UNKNOWN_SECONDS, Neighbours
from ksm_operator.agent.news import ForeignSeen
from ksm_operator.agent.placement import place
from ksm_operator.agent.wire import ObjectMeta
from ksm_operator.kernel import Process

UID = "00000000-1111-2222-3333-444444444444"
PATH = f"/kubepods/pod{UID}/{'ab' * 32}"
PODS = {UID: ObjectMeta(name="till-0", namespace="shop", uid=UID)}


@pytest.fixture
def neighbours() -> Neighbours:
    """With a thread that is never started: what it sees is told here."""
    host = SimpleNamespace(
        hierarchy=SimpleNamespace(version=2), features=SimpleNamespace(ksm_stat_shows_flag=True)
    )
    return Neighbours(host, queue.SimpleQueue())  # type: ignore[arg-type] # no more of it is asked


def merger(cgroup: str, age: float = 1000.0) -> Candidate:
    """A process of that cgroup."""
    started = int(100 * (time.clock_gettime(time.CLOCK_BOOTTIME) - age))
    return Candidate(Process(7, started), "python3", cgroup, place(cgroup))


def seen(
    *mergers: Candidate, managers: frozenset[str] = frozenset(), number: int = 1
) -> ForeignSeen:
    """What the thread tells."""
    return ForeignSeen(mergers, managers, number)


def test_nothing_scans_before_the_first_look(neighbours: Neighbours) -> None:
    """An agent that starts anew must not merge with whoever came meanwhile."""
    assert neighbours.forbid_scanning("Pause")
    assert neighbours.manager(0) is None
    assert not neighbours.follow(set(), set(), {})
    assert neighbours.forbid_scanning("Pause")
    neighbours.hear(seen())
    assert neighbours.follow(set(), set(), {}), "it is known for the first time"
    assert not neighbours.forbid_scanning("Pause")
    assert neighbours.manager(0) == ""


@pytest.mark.parametrize("is_over", [True, False])
def test_what_is_not_known_yet_is_told_apart(neighbours: Neighbours, *, is_over: bool) -> None:
    """Before the first look nobody may say that the domain is alone."""
    if is_over:
        neighbours.hear(seen())
    neighbours.follow(set(), set(), {})
    assert neighbours.looked is is_over


def test_a_pod_outside_of_the_domain_is_named(neighbours: Neighbours) -> None:
    """An Event says whose pod it is."""
    neighbours.hear(seen(merger(PATH)))
    assert neighbours.follow(set(), {PATH}, PODS)
    assert neighbours.forbid_scanning("Pause")
    assert not neighbours.forbid_scanning("Report")
    (named,) = neighbours.named.mergers
    assert (named.pod, named.pod_uid) == ("shop/till-0", UID)
    assert neighbours.manager(0) == "", "pods of others are foreign, and manage nothing"


def test_the_domains_own_are_not_foreign(neighbours: Neighbours) -> None:
    """The thread may have looked before it was told of a new container."""
    neighbours.hear(seen(merger(PATH)))
    neighbours.follow({PATH}, {PATH}, PODS)
    assert not neighbours.isolation.broken


def test_a_pod_that_nobody_told_of_yet_gets_its_time(neighbours: Neighbours) -> None:
    """A pod of the domain may merge by itself before the API server has told of it."""
    neighbours.hear(seen(merger(PATH, age=0.5)))
    neighbours.follow(set(), {PATH}, {})
    assert not neighbours.forbid_scanning("Pause")
    neighbours.hear(seen(merger(PATH, age=UNKNOWN_SECONDS)))
    neighbours.follow(set(), {PATH}, {})
    assert neighbours.forbid_scanning("Pause"), "while the API server is away nobody is told of"
    assert neighbours.named.mergers[0].pod is None


def test_a_question_is_answered_by_a_look_that_began_after_it(neighbours: Neighbours) -> None:
    """A clean-up scan would merge with one who came since the last look."""
    neighbours.hear(seen(number=0))
    assert neighbours.others_merge() is None
    neighbours.hear(seen(merger("/system.slice/a.service"), number=1))
    neighbours.follow(set(), set(), {})
    assert neighbours.others_merge() is True


def test_who_manages_ksmd_is_asked_of_the_host(neighbours: Neighbours) -> None:
    """A node is somebody else's by its host processes, its managers, or its ksmd."""
    neighbours.hear(seen(merger("/system.slice/a.service")))
    assert "a.service" in (neighbours.manager(0) or "")
    neighbours.hear(seen(managers=frozenset({"ksmtuned"})))
    assert "ksmtuned" in (neighbours.manager(0) or "")
    neighbours.hear(seen())
    assert "ksmd ran" in (neighbours.manager(1) or "")


def test_who_leaves_the_domain_and_stays_on_the_node_is_looked_at(
    neighbours: Neighbours, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container that has ended cannot merge."""
    told: list[set[str]] = []
    neighbours.follow({"/stays", "/leaves", "/ends"}, {"/stays", "/leaves", "/ends"}, {})
    monkeypatch.setattr(neighbours._watch, "take_domain", lambda *words: told.append(words[2]))
    neighbours.follow({"/stays"}, {"/stays", "/leaves"}, {})
    assert told == [{"/leaves"}]
