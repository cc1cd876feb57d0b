"""What the operator's accounts may write, and what a node's kubelet may, tried with their tokens.

Every write is a server-side dry run: admission judges it in full and nothing happens.
The operator's accounts get rights here that the chart never gives them, so that what refuses a
request is admission alone and not RBAC.
"""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from cluster import accounts
from cluster.accounts import Account, Answer, Try
from cluster.command import Kubectl, wait_until
from cluster.operator_release import NAMESPACE
from cluster.tries import agent as agent_tries
from cluster.tries import controller as controller_tries
from cluster.tries import kubelet as kubelet_tries
from cluster.tries.daemonset import AGENTS_MAY_NOT, POD, RUNS_ONE
from cluster.tries.objects import (
    DAEMONSET,
    FINALIZER,
    FOREIGN,
    MACHINE,
    OTHER,
    OWN,
    STATUS,
    ksm_object,
    meta,
)
from cluster.tries.unheard import UNHEARD

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def spare(kubectl: Kubectl, no_controller: None) -> Iterator[None]:
    """A node without a machine, KSMNodes for it and for another, a pod of an agent, policies."""
    pod = ("pod", OTHER, "-n", NAMESPACE)
    kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": OTHER, "labels": {"zone": "a"}},
        },
        *(
            ksm_object("KSMNode", name, spec={"desiredState": "Released"})
            for name in (OTHER, f"{OTHER}-2")
        ),
        *(
            ksm_object("KSMPolicy", name, spec={"namespaces": [OTHER]})
            for name in (OTHER, f"{OTHER}-2")
        ),
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": OTHER, "namespace": NAMESPACE},
            "spec": {
                "serviceAccountName": "ksm-operator-agent",
                "nodeName": OTHER,
                "containers": [{"name": "agent", "image": "localhost/none:1"}],
            },
        },
    )
    kubectl.patch("ksmpolicy", f"{OTHER}-2", meta(finalizers=[FINALIZER, FOREIGN]))
    yield
    # Nobody is there to end it.
    kubectl("delete", *pod, "--grace-period=0", "--force")
    kubectl.patch("ksmpolicy", f"{OTHER}-2", meta(finalizers=None))
    for kind in ("ksmpolicy", "ksmnode"):
        kubectl("delete", kind, OTHER, f"{OTHER}-2")
    kubectl("delete", "node", OTHER)


@pytest.fixture(scope="module")
def widened(kubectl: Kubectl, operator_installed: object) -> Iterator[None]:
    """Rights as a careless administrator might add them, and the account of the uninstallation."""
    rules = (
        ("ksm-operator.dev", ["ksmnodes", "ksmpolicies"]),
        ("", ["nodes"]),
        ("apps", ["daemonsets"]),
        ("coordination.k8s.io", ["leases"]),
    )
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": OTHER},
        "rules": [
            {
                "apiGroups": [group],
                "resources": [*kinds, *(f"{kind}/status" for kind in kinds)],
                "verbs": ["*"],
            }
            for group, kinds in rules
        ],
    }
    names = [f"ksm-operator-{part}" for part in ("agent", "controller", "uninstall")]
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": OTHER},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole",
            "name": OTHER,
        },
        "subjects": [
            {"kind": "ServiceAccount", "name": name, "namespace": NAMESPACE} for name in names
        ],
    }
    kubectl.apply(role, binding)
    account = ("serviceaccount", "ksm-operator-uninstall", "-n", NAMESPACE)
    kubectl("create", *account)
    yield
    kubectl("delete", *account)
    kubectl("delete", "clusterrolebinding,clusterrole", OTHER)


@pytest.fixture(scope="module")
def agent(kubectl: Kubectl, spare: None, widened: None) -> Iterator[Account]:
    """The agent on the node `OTHER`: its token is bound to its pod, as a real one's is."""
    bound = ("--bound-object-kind=Pod", f"--bound-object-name={OTHER}")
    with accounts.service_account(kubectl, "ksm-operator-agent", *bound) as account:
        yield account


@pytest.fixture(scope="module")
def homeless(kubectl: Kubectl, spare: None, widened: None) -> Iterator[Account]:
    """An agent with a token that somebody asked for by hand: it is bound to no pod."""
    with accounts.service_account(kubectl, "ksm-operator-agent") as account:
        yield account


@pytest.fixture(scope="module")
def controllers(kubectl: Kubectl, spare: None, widened: None) -> Iterator[list[Account]]:
    """The controller and the uninstallation, which are held to the same."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(accounts.service_account(kubectl, f"ksm-operator-{part}"))
            for part in ("controller", "uninstall")
        ]


@pytest.fixture(scope="module")
def kubelet(spare: None) -> Iterator[Account]:
    """The kubelet of the one real node, with its own certificate."""
    with accounts.kubelet() as account:
        yield account


def _allowed(answer: Answer) -> dict[str, Any]:
    assert answer.code in (200, 201), answer
    return answer.body


def _refused(answer: Answer, policy: str, words: str) -> None:
    assert answer.code == 403, answer
    assert f"ValidatingAdmissionPolicy 'ksm-operator-{policy}'" in answer.message
    assert words in answer.message


def _evenly(answers: list[Answer]) -> Answer:
    """The answer that all got."""
    assert len({answer.code for answer in answers}) == 1, answers
    return answers[0]


@pytest.mark.parametrize("what", agent_tries.MAY)
def test_agent_may(agent: Account, what: str) -> None:
    """The one write that an agent lives by must pass."""
    _allowed(agent.ask(agent_tries.MAY[what]))


@pytest.mark.parametrize("what", agent_tries.MAY_NOT)
def test_agent_may_not(agent: Account, what: str) -> None:
    """A node that is broken into must neither speak for others nor give orders."""
    words = f"the agent on node {OTHER} may only update ksmnodes/status {OTHER}, not "
    _refused(agent.ask(agent_tries.MAY_NOT[what]), "agent", words)


@pytest.mark.parametrize("what", [*agent_tries.MAY, *agent_tries.MAY_NOT])
def test_agent_token_without_a_node_writes_nothing(homeless: Account, what: str) -> None:
    """Whoever can ask for tokens of the account is on no node, so it may write for none."""
    request = {**agent_tries.MAY, **agent_tries.MAY_NOT}[what]
    _refused(homeless.ask(request), "agent", "the token names no node")


def test_agents_words_are_heard_by_name(agent: Account) -> None:
    """Who is refused has to see what he asked for, or he cannot tell a bug from an attack."""
    answer = agent.ask(Try("PATCH", f"{OWN}-2/status", STATUS))
    _refused(answer, "agent", f"not UPDATE ksmnodes/status {OTHER}-2")


@pytest.mark.parametrize("what", controller_tries.MAY)
def test_controller_may(controllers: list[Account], what: str) -> None:
    """What is narrowed must still let the operator do its work."""
    _allowed(_evenly([one.ask(controller_tries.MAY[what]) for one in controllers]))


@pytest.mark.parametrize("what", controller_tries.MAY_NOT)
def test_controller_may_not(controllers: list[Account], what: str) -> None:
    """The right to patch nodes or policies is the right to take them over, were it not narrowed."""
    request, (policy, words) = controller_tries.MAY_NOT[what]
    answers = [one.ask(request) for one in controllers]
    _refused(_evenly(answers), f"controller-{policy}", words)


@pytest.mark.parametrize("what", UNHEARD)
def test_a_write_of_one_part_changes_no_other(
    agent: Account, controllers: list[Account], what: str
) -> None:
    """What such a request says beside its part is not refused but must be without effect."""
    request, part = UNHEARD[what]
    speaker = agent if what.startswith("an agent's") else controllers[0]
    with accounts.administrator() as administrator:
        before = _allowed(administrator.ask(Try("GET", request.path.removesuffix("/status"))))
    after = _allowed(speaker.ask(request))
    assert after.get(part) != before.get(part), "the request itself has no effect"
    for one in (before, after):
        one.pop(part, None)
        for written_by_the_server in ("managedFields", "resourceVersion", "generation"):
            one.get("metadata", {}).pop(written_by_the_server, None)
    assert after == before


@pytest.fixture(scope="module")
def daemonset(kubectl: Kubectl, operator_installed: object) -> dict[str, Any]:
    """The agents' DaemonSet as the chart has it."""
    text = kubectl.get("configmap", "ksm-operator-agent", "-n", NAMESPACE)["data"]["daemonset.yaml"]
    parsed: dict[str, Any] = yaml.safe_load(text)
    return parsed


def _changed(manifest: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy with other values at these paths; a number is an index, one past the end appends."""
    changed = copy.deepcopy(manifest)
    for path, value in changes.items():
        *way, last = path.split(".")
        place: Any = changed
        for step in way:
            place = place[int(step)] if isinstance(place, list) else place.setdefault(step, {})
        if isinstance(place, list):
            place[int(last) :] = [value]
        else:
            place[last] = value
    return changed


def test_controller_may_apply_the_agents_daemonset(
    controllers: list[Account], daemonset: dict[str, Any]
) -> None:
    """The template of the chart, as the API server completes it, must pass its own policy."""
    _allowed(_evenly([one.ask(Try("APPLY", DAEMONSET, daemonset)) for one in controllers]))


@pytest.mark.parametrize("what", AGENTS_MAY_NOT)
def test_controller_makes_agents_that_may_not(
    controllers: list[Account], daemonset: dict[str, Any], what: str
) -> None:
    """A privileged DaemonSet is root everywhere; it must not carry anybody's program or file."""
    changes, words = AGENTS_MAY_NOT[what]
    manifest = _changed(daemonset, changes)
    # Labels that an apply does not have are left as they are.
    labels = manifest["spec"]["template"]["metadata"]["labels"]
    labels.update(daemonset["spec"]["template"]["metadata"]["labels"])
    answers = [one.ask(Try("APPLY", DAEMONSET, manifest)) for one in controllers]
    _refused(_evenly(answers), "controller-daemonset", words)


def test_controller_makes_agents_that_may_not_run_twice(
    controllers: list[Account], daemonset: dict[str, Any]
) -> None:
    """What is right for one container is not for a second, which nobody looks at."""
    twin = {**daemonset["spec"]["template"]["spec"]["containers"][0], "name": "twin", "ports": []}
    manifest = _changed(daemonset, {f"{POD}.containers.1": twin})
    answers = [one.ask(Try("APPLY", DAEMONSET, manifest)) for one in controllers]
    _refused(_evenly(answers), "controller-daemonset", RUNS_ONE)


@pytest.mark.parametrize(
    ("name", "namespace"), [("other", NAMESPACE), ("ksm-operator-agent", "default")]
)
def test_controller_may_apply_no_other_daemonset(
    controllers: list[Account], daemonset: dict[str, Any], name: str, namespace: str
) -> None:
    """Neither another name nor another namespace."""
    manifest = _changed(daemonset, {"metadata.name": name, "metadata.namespace": namespace})
    path = f"/apis/apps/v1/namespaces/{namespace}/daemonsets"
    for request in (Try("APPLY", f"{path}/{name}", manifest), Try("POST", path, manifest)):
        answers = [one.ask(request) for one in controllers]
        _refused(_evenly(answers), "controller-daemonset", controller_tries.ONE_DAEMONSET[1])


@pytest.mark.parametrize("what", kubelet_tries.MAY_NOT)
def test_kubelet_may_not(kubelet: Account, what: str) -> None:
    """A node that is broken into must not draw agents, orders or other nodes' tokens to itself."""
    request, words = kubelet_tries.MAY_NOT[what]
    answer = kubelet.ask(request)
    assert answer.code == 403, answer
    assert words in answer.message


def test_kubelet_may_label_its_node_otherwise(kubelet: Account) -> None:
    """Or the refusals above would be about labels at large, and prove nothing about ours."""
    _allowed(kubelet.ask(Try("PATCH", MACHINE, meta(labels={"example.com/a": "b"}))))


def test_policies_touch_nobody_else(spare: None) -> None:
    """An administrator, a kubelet or another operator must never meet our admission policies."""
    requests = [request for request, _ in controller_tries.MAY_NOT.values()]
    # What dry runs of whole collections would say depends on everything in the cluster.
    requests = [one for one in requests if one.method != "DELETE"]
    with accounts.administrator() as administrator:
        for request in (*requests, *agent_tries.MAY.values()):
            answer = administrator.ask(request)
            assert answer.code in (200, 201), (request, answer)


@pytest.mark.parametrize(
    "name",
    ["agent", *(f"controller-{kind}" for kind in ("nodes", "daemonset", "policies", "lease"))],
)
def test_expressions_fit_the_types_of_the_api(
    kubectl: Kubectl, operator_installed: object, name: str
) -> None:
    """A misspelt field would refuse every request or none, at run time only."""

    def status() -> dict[str, Any]:
        found = kubectl.get("validatingadmissionpolicy", f"ksm-operator-{name}")
        judged: dict[str, Any] = found.get("status", {})
        return judged if judged.get("observedGeneration") == found["metadata"]["generation"] else {}

    judged = wait_until(status, 30, "the admission policy is type-checked")
    assert not judged["typeChecking"].get("expressionWarnings")
