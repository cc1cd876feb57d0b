"""Whose memory merges."""

import pytest

from ksm_operator.agent.selection import (
    MERGE_LABEL,
    Namespaces,
    Outcome,
    Verdict,
    judge_container,
    judge_pod,
    namespace_query,
    pod_cgroup_uid,
)
from ksm_operator.agent.wire import (
    Enrollment,
    LabelSelector,
    NodePolicy,
    Pod,
    SelectorRequirement,
)

OWN = "ksm-operator"
BY_LABEL = NodePolicy(namespace_selector=LabelSelector(match_labels={"ksm": "web"}))
SELECTED = Namespaces({"web": {"ksm": "web"}}, frozenset({"other"}))
HASH = "0123456789abcdef0123456789abcdef"
ON, OFF = {MERGE_LABEL: "enabled"}, {MERGE_LABEL: "disabled"}


def pod(namespace: str = "web", **labels: str) -> Pod:
    """A pod about which nothing is special."""
    return Pod(name="p", namespace=namespace, uid="u", labels=labels)


@pytest.mark.parametrize(
    ("namespace", "outcome"),
    [("web", Outcome.MERGE), ("other", Outcome.OUTSIDE), ("never-heard-of", Outcome.UNKNOWN)],
)
def test_namespace(namespace: str, outcome: Outcome) -> None:
    """A namespace of which nothing is known is no reason to release anything."""
    assert judge_pod(pod(namespace), SELECTED, BY_LABEL, OWN).outcome is outcome


def test_unknown_pod() -> None:
    """A pod that the API server has not told (yet, or any more) neither joins nor leaves."""
    verdict = judge_pod(None, SELECTED, BY_LABEL, OWN)
    assert verdict.outcome is Outcome.UNKNOWN
    assert not verdict.leaves


@pytest.mark.parametrize("name", ["kube-system", "openshift-dns", OWN])
def test_reserved_namespaces_need_their_name(name: str) -> None:
    """A selector that happens to match system namespaces must not put them into a domain."""
    known = Namespaces({name: {"ksm": "web"}})
    assert judge_pod(pod(name), known, BY_LABEL, OWN).outcome is Outcome.OUTSIDE
    named = NodePolicy(namespaces=(name,))
    assert judge_pod(pod(name), known, named, OWN).outcome is Outcome.MERGE


def test_empty_selector_selects_nothing() -> None:
    """An empty selector would make one domain of everything, should it ever get past the API."""
    for policy in (NodePolicy(), NodePolicy(namespace_selector=LabelSelector())):
        assert namespace_query(policy) == ""
        assert judge_pod(pod(), SELECTED, policy, OWN).outcome is Outcome.OUTSIDE


def test_pod_selector() -> None:
    """A pod whose labels change leaves, which is what releases it."""
    selector = LabelSelector(
        match_labels={"app": "shop"},
        match_expressions=(SelectorRequirement(key="tier", operator="NotIn", values=("db",)),),
    )
    policy = NodePolicy(namespace_selector=BY_LABEL.namespace_selector, pod_selector=selector)
    assert judge_pod(pod(app="shop"), SELECTED, policy, OWN).outcome is Outcome.MERGE
    assert judge_pod(pod(app="shop", tier="db"), SELECTED, policy, OWN).leaves
    assert judge_pod(pod(app="blog"), SELECTED, policy, OWN).leaves


@pytest.mark.parametrize(
    ("consent", "on_pod", "on_namespace", "expected"),
    [
        ("OptOut", {}, {}, Verdict(Outcome.MERGE)),
        ("OptOut", OFF, {}, Verdict(Outcome.SKIP, "OptedOut")),
        ("OptOut", {}, OFF, Verdict(Outcome.SKIP, "OptedOut")),
        ("OptOut", ON, OFF, Verdict(Outcome.MERGE, asked=True)),
        ("OptOut", OFF, ON, Verdict(Outcome.SKIP, "OptedOut")),
        ("OptIn", {}, {}, Verdict(Outcome.SKIP, "NotOptedIn")),
        ("OptIn", ON, {}, Verdict(Outcome.MERGE, asked=True)),
        ("OptIn", {}, ON, Verdict(Outcome.MERGE, asked=True)),
        ("OptIn", OFF, ON, Verdict(Outcome.SKIP, "OptedOut")),
        ("OptIn", ON, OFF, Verdict(Outcome.MERGE, asked=True)),
    ],
)
def test_consent(
    consent: str, on_pod: dict[str, str], on_namespace: dict[str, str], expected: Verdict
) -> None:
    """The pod's label wins over its namespace's, and disabled beats any policy."""
    policy = NodePolicy(
        namespace_selector=BY_LABEL.namespace_selector, enrollment=Enrollment(consent=consent)
    )
    known = Namespaces({"web": {"ksm": "web", **on_namespace}})
    assert judge_pod(pod(**on_pod), known, policy, OWN) == expected


@pytest.mark.parametrize(
    ("consent", "label", "expected"),
    [
        ("OptOut", {}, Verdict(Outcome.SKIP, "SystemCritical", of_domain=True)),
        ("OptOut", ON, Verdict(Outcome.MERGE, asked=True)),
        ("OptOut", OFF, Verdict(Outcome.SKIP, "OptedOut")),
        ("OptIn", {}, Verdict(Outcome.SKIP, "NotOptedIn")),
        ("OptIn", ON, Verdict(Outcome.MERGE, asked=True)),
    ],
)
def test_who_is_left_alone_by_default_may_ask(
    consent: str, label: dict[str, str], expected: Verdict
) -> None:
    """A default is for those who have said nothing; whoever owns the pod has the last word."""
    policy = NodePolicy(
        namespace_selector=BY_LABEL.namespace_selector, enrollment=Enrollment(consent=consent)
    )
    critical = Pod(namespace="web", uid="u", labels=label, default_skip="SystemCritical")
    assert judge_pod(critical, SELECTED, policy, OWN) == expected
    of_namespace = Namespaces({"web": {"ksm": "web", **label}})
    critical = Pod(namespace="web", uid="u", default_skip="SystemCritical")
    assert judge_pod(critical, of_namespace, policy, OWN) == expected


@pytest.mark.parametrize(
    ("started", "granted", "expected"),
    [
        (100.0, 200.0, Verdict(Outcome.SKIP, "StartedBeforeGrant", of_domain=True)),
        (300.0, 200.0, Verdict(Outcome.MERGE)),
        (None, 200.0, Verdict(Outcome.MERGE)),
        (300.0, None, Verdict(Outcome.UNKNOWN)),
        (None, None, Verdict(Outcome.UNKNOWN)),
    ],
)
def test_running_pods_skip(started: float | None, granted: float | None, expected: Verdict) -> None:
    """Skip leaves alone what ran before the grant; without its time nothing is decided."""
    policy = NodePolicy(
        namespace_selector=BY_LABEL.namespace_selector, enrollment=Enrollment(running_pods="Skip")
    )
    assert judge_container(Verdict(Outcome.MERGE), started, granted, policy) == expected


def test_namespace_query() -> None:
    """The API server evaluates the selector, by names too: an agent never lists all namespaces."""
    assert namespace_query(BY_LABEL) == "ksm=web"
    query = namespace_query(NodePolicy(namespaces=("b", "a")))
    assert query == "kubernetes.io/metadata.name in (a,b)"


def test_static_pod_uid() -> None:
    """The cgroup of a static pod carries its manifest's hash, not the mirror pod's uid."""
    mirror = Pod(uid="u", annotations={"kubernetes.io/config.mirror": HASH}, reported=True)
    assert pod_cgroup_uid(mirror) == HASH
    assert pod_cgroup_uid(pod()) == "u"


@pytest.mark.parametrize(
    ("key", "value", "reported"),
    [
        ("config.hash", HASH, True),
        ("config.mirror", HASH, False),
        ("config.mirror", "2f1c9a0e-6f5b-4c43-9a11-1d9d5e0f8f10", True),
        ("config.mirror", "mirror", True),
        ("config.mirror", HASH + "0", True),
        ("config.mirror", "", True),
    ],
)
def test_an_annotation_alone_makes_no_pod_another(key: str, value: str, reported: bool) -> None:  # noqa: FBT001 - a column of the table
    """Else any author of pods decides which domain somebody else's containers are in."""
    impostor = Pod(uid="u", annotations={f"kubernetes.io/{key}": value}, reported=reported)
    assert pod_cgroup_uid(impostor) == "u"
