"""What follows for containers from what the API server said, and from what it did not say."""

import pytest

from ksm_operator.agent.placement import Placement
from ksm_operator.agent.selection import Outcome
from ksm_operator.agent.view import View
from ksm_operator.agent.wire import Enrollment, LabelSelector, NodePolicy, ObjectMeta, Pod

OWN = "ksm-operator"
SELECTOR = LabelSelector(match_labels={"ksm": "web"})
POLICY = NodePolicy(namespace_selector=SELECTOR)
WEB = ObjectMeta(name="web", labels={"ksm": "web"})
POD = Pod(name="p", namespace="web", uid="u")
PATH = "/kubepods/podu/c"


@pytest.fixture
def view() -> View:
    """One pod with one container in a selected namespace."""
    view = View()
    view.containers[PATH] = Placement("u", "c", PATH)
    view.pods_listed([POD])
    view.namespaces_arrived([WEB])
    return view


def judge(view: View, policy: NodePolicy = POLICY) -> set[str]:
    """Decide anew; the pod is enrolled."""
    return view.judge(policy, OWN, 100.0, lambda _: 50.0, {"u"})


def outcome(view: View) -> Outcome:
    """What becomes of the one container."""
    return view.verdicts[PATH].outcome


def test_selected(view: View) -> None:
    """A container of a selected pod is merged, and nothing has to be asked."""
    assert judge(view) == set()
    assert view.to_merge() == [PATH]


def test_an_empty_list_of_pods_releases_nothing(view: View) -> None:
    """A server that lost its data lists nothing; the containers run all the same."""
    view.pods_listed([])
    judge(view)
    assert outcome(view) is Outcome.MERGE


def test_an_empty_list_of_namespaces_releases_nothing(view: View) -> None:
    """Only a positive answer about the namespace tells a relabelling from a loss."""
    view.namespaces_arrived([])
    assert judge(view) == {"web"}
    assert outcome(view) is Outcome.UNKNOWN
    view.namespace_looked_up("web", None, POLICY, OWN)
    assert judge(view) == set()  # asked once: the answer would be the same
    assert outcome(view) is Outcome.UNKNOWN


def test_a_relabelled_namespace_leaves(view: View) -> None:
    """It exists and does not match: its pods are released."""
    view.namespace_deleted(WEB)
    assert judge(view) == {"web"}
    view.namespace_looked_up("web", {"ksm": "no"}, POLICY, OWN)
    assert judge(view) == set()
    assert view.verdicts[PATH].leaves


def test_a_namespace_that_comes_back_joins_again(view: View) -> None:
    """The last word of the API server counts."""
    view.namespace_deleted(WEB)
    view.namespace_looked_up("web", {"ksm": "no"}, POLICY, OWN)
    view.namespace_changed(WEB)
    judge(view)
    assert outcome(view) is Outcome.MERGE


def test_another_selector_starts_anew(view: View) -> None:
    """Until the new selector's namespaces have arrived nobody joins, leaves or is asked for."""
    view.namespaces_reset()
    assert judge(view) == set()
    assert outcome(view) is Outcome.UNKNOWN


def test_who_is_left_alone_by_default_is_in_the_domain(view: View) -> None:
    """It was selected: that it merges by itself is no reason to stop the scanner for the others."""
    for uid, label, why in (("v", "enabled", ""), ("w", "disabled", ""), ("x", "", "Sandboxed")):
        labels = {"ksm-operator.dev/merge": label}
        view.pod_changed(Pod(name=uid, namespace="web", uid=uid, labels=labels, default_skip=why))
        view.containers[f"/{uid}"] = Placement(uid, "c", f"/{uid}")
    judge(view)
    assert set(view.to_merge()) == {PATH, "/v"}
    assert view.domain() == {PATH, "/v", "/x"}


def test_whose_pods_ask(view: View) -> None:
    """Their processes are not left alone for what counts by default only."""
    judge(view)
    assert view.asked() == frozenset()
    labels = {"ksm-operator.dev/merge": "enabled"}
    view.pod_changed(Pod(name="p", namespace="web", uid="u", labels=labels))
    judge(view)
    assert view.asked() == {PATH}


def test_a_container_before_its_pod(view: View) -> None:
    """A cgroup may be noticed before the pod's metadata arrives: it waits, and then is merged."""
    path = "/kubepods/podlate/c"
    view.containers[path] = Placement("late", "c", path)
    judge(view)
    assert path not in view.to_merge()
    view.pod_changed(Pod(name="late", namespace="web", uid="late"))
    judge(view)
    assert path in view.to_merge()


def test_deleted_pods_are_forgotten_with_their_containers(view: View) -> None:
    """Memory must not grow with every pod that ever ran here."""
    view.pod_deleted(POD)
    judge(view)
    assert outcome(view) is Outcome.MERGE
    view.drop_vanished(PATH)
    judge(view)
    assert not view.pods


def test_counts(view: View) -> None:
    """Status counts selected pods, those merging, and those left alone by reason."""
    labels = {"ksm-operator.dev/merge": "disabled"}
    view.pod_changed(Pod(name="q", namespace="web", uid="v", labels=labels))
    view.containers["/kubepods/podv/c"] = Placement("v", "c", "/kubepods/podv/c")
    view.pod_changed(Pod(name="finished", namespace="web", uid="x"))
    view.pod_changed(Pod(name="r", namespace="other", uid="w"))
    judge(view)
    matched, merging, skipped = view.pod_counts({"u"})
    assert (matched, merging, dict(skipped)) == (2, 1, {"OptedOut": 1})


def test_running_pods_skip_is_counted(view: View) -> None:
    """A pod whose containers are all older than the grant is skipped, and says why."""
    policy = NodePolicy(namespace_selector=SELECTOR, enrollment=Enrollment(running_pods="Skip"))
    judge(view, policy)
    assert view.to_merge() == []
    assert dict(view.pod_counts(set())[2]) == {"StartedBeforeGrant": 1}
    assert view.container_counts()[0] == 1
