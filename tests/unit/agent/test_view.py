"""What follows for containers from what the API server said, and from what it did not say."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
HASH = "0123456789abcdef0123456789abcdef"
STATIC = f"/kubepods/pod{HASH}/c"


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


def mirror(uid: str, namespace: str = "web", *, reported: bool = True) -> Pod:
    """What claims to be the mirror of the one static pod."""
    annotations = {"kubernetes.io/config.mirror": HASH, "kubernetes.io/config.hash": HASH}
    return Pod(name=uid, namespace=namespace, uid=uid, annotations=annotations, reported=reported)


UIDS = ("u", "2f1c9a0e-6f5b-4c43-9a11-1d9d5e0f8f10", "v", "w")
STRANGERS = st.builds(
    Pod,
    uid=st.sampled_from(UIDS[2:]),
    namespace=st.sampled_from(["web", "other"]),
    annotations=st.dictionaries(
        st.sampled_from(["kubernetes.io/config.hash", "kubernetes.io/config.mirror"]),
        st.sampled_from([*UIDS, UIDS[1].replace("-", ""), HASH, ""]),
    ),
    reported=st.booleans(),
)
NEWS = st.lists(
    st.tuples(
        st.sampled_from([View.pod_changed, View.pod_deleted]),
        STRANGERS,
    ),
    max_size=8,
)


@given(news=NEWS, listed=st.none() | st.lists(STRANGERS, max_size=4))
def test_no_other_pod_speaks_for_one(
    news: list[tuple[Callable[[View, Pod], None], Pod]], listed: list[Pod] | None
) -> None:
    """Else whoever may annotate a pod of his enrols the containers of others, or releases them."""
    view = View()
    victims = [Pod(name="victim", namespace="other", uid=uid) for uid in UIDS[:2]]
    view.pods_listed(victims)
    for hear, stranger in news:
        hear(view, stranger)
    if listed is not None:
        view.pods_listed([*victims, *listed])
    assert [view.pods[one.uid] for one in victims] == victims


def test_a_static_pod_is_judged_by_its_mirror(view: View) -> None:
    """Its manifest is on the node, and its labels are known by its mirror alone."""
    view.containers[STATIC] = Placement(HASH, "c", STATIC)
    view.pod_changed(mirror("m", reported=False))
    judge(view)
    assert view.verdicts[STATIC].outcome is Outcome.UNKNOWN
    view.pod_changed(mirror("m"))
    judge(view)
    assert view.verdicts[STATIC].outcome is Outcome.MERGE


def test_of_two_who_claim_a_static_pod_neither_is_believed(view: View) -> None:
    """One of them lies, and nobody can tell which: whoever merges goes on, and nobody joins."""
    view.containers[STATIC] = Placement(HASH, "c", STATIC)
    view.pod_changed(mirror("m"))
    view.pod_changed(mirror("liar", "other"))
    judge(view)
    assert view.verdicts[STATIC].outcome is Outcome.UNKNOWN
    view.pod_deleted(mirror("liar", "other"))
    judge(view)
    assert view.verdicts[STATIC].outcome is Outcome.MERGE


def test_a_mirror_that_was_made_anew_counts(view: View) -> None:
    """The kubelet makes another when somebody deletes it; the static pod has not stopped."""
    view.containers[STATIC] = Placement(HASH, "c", STATIC)
    view.pods_listed([POD, mirror("m")])
    view.pods_listed([POD])
    judge(view)
    assert view.verdicts[STATIC].outcome is Outcome.MERGE
    view.pod_changed(mirror("n", "web"))
    judge(view)
    assert view.pods[HASH].uid == "n"


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


SKIP = NodePolicy(namespace_selector=SELECTOR, enrollment=Enrollment(running_pods="Skip"))


def test_a_container_that_was_seen_empty_is_new(view: View) -> None:
    """Its program is about to begin, and must not wait for the next news to be enrolled.

    Its first process may seem older than the grant: it was made elsewhere, or the clocks differ.
    """
    view.judge(SKIP, OWN, 100.0, lambda _: None, set())
    assert view.to_merge() == [PATH]
    view.judge(SKIP, OWN, 100.0, lambda _: 99.0, set())
    assert view.to_merge() == [PATH]


def test_who_was_new_at_one_grant_is_old_at_the_next(view: View) -> None:
    """Another policy, or the same one later, finds a container that runs."""
    view.judge(SKIP, OWN, 100.0, lambda _: None, set())
    view.judge(SKIP, OWN, 200.0, lambda _: 100.5, set())
    assert view.to_merge() == []


@pytest.mark.parametrize("noticed", [True, False])
def test_what_was_empty_is_forgotten_with_its_cgroup(view: View, noticed: bool) -> None:  # noqa: FBT001 - whether the event was heard
    """Memory must not grow with every container that ever ran here."""
    view.judge(SKIP, OWN, 100.0, lambda _: None, set())
    if noticed:
        view.drop_vanished(PATH)
    else:
        view.containers.clear()
        view.judge(SKIP, OWN, 100.0, lambda _: None, set())
    view.containers[PATH] = Placement("u", "c", PATH)
    view.judge(SKIP, OWN, 100.0, lambda _: 50.0, set())
    assert view.to_merge() == []


def test_who_ran_before_the_grant_is_in_the_domain(view: View) -> None:
    """Its namespace was selected: one that merges by itself must not have its own domain paused."""
    judge(view, SKIP)
    assert view.to_merge() == []
    assert view.domain() == {PATH}


def test_running_pods_skip_is_counted(view: View) -> None:
    """A pod whose containers are all older than the grant is skipped, and says why."""
    judge(view, SKIP)
    assert view.to_merge() == []
    assert dict(view.pod_counts(set())[2]) == {"StartedBeforeGrant": 1}
    assert view.container_counts()[0] == 1
