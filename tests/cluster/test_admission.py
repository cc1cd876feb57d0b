"""What the operator's accounts may write, and what a node's kubelet may, tried with their tokens.

Every write is a server-side dry run: admission judges it in full and nothing happens.
The operator's accounts get rights here that the chart never gives them, so that what refuses a
request is admission alone and not RBAC.
"""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any, Final

import pytest
import yaml

from cluster import accounts
from cluster.accounts import Account, Answer, Try
from cluster.command import Kubectl, wait_until
from cluster.operator_release import AGENT_LABEL, NAMESPACE

pytestmark = pytest.mark.cluster

OTHER: Final = "admission-test"
"""A node without a machine, its KSMNode, and a policy."""
NODE: Final = f"/api/v1/nodes/{OTHER}"
MACHINE: Final = "/api/v1/nodes/node-1"
KSM: Final = "/apis/ksm-operator.dev/v1alpha1"
OWN: Final = f"{KSM}/ksmnodes/{OTHER}"
POLICY: Final = f"{KSM}/ksmpolicies/{OTHER}"
HELD: Final = f"{KSM}/ksmpolicies/{OTHER}-2"
"""A policy that the operator and somebody else hold back from deletion."""
INSIDE: Final = f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets"
DAEMONSET: Final = f"{INSIDE}/ksm-operator-agent"
LEASES: Final = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
LEASE: Final = f"{LEASES}/ksm-operator-controller"
TOKEN: Final = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/ksm-operator-agent/token"
FINALIZER: Final = "ksm-operator.dev/release"
FOREIGN: Final = "example.com/mine"
OWNER: Final = {"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "0"}
STATUS: Final = {"status": {"agentVersion": "1", "foreignMergers": []}}


def _meta(**fields: Any) -> dict[str, Any]:
    return {"metadata": fields}


def _ksm(kind: str, name: str, **fields: Any) -> dict[str, Any]:
    return {
        "apiVersion": "ksm-operator.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        **fields,
    }


NEW: Final = _ksm("KSMNode", "new", spec={"desiredState": "Released"})
NEW_POLICY: Final = _ksm("KSMPolicy", "new", spec={"namespaces": ["a"]})


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
            _ksm("KSMNode", name, spec={"desiredState": "Released"})
            for name in (OTHER, f"{OTHER}-2")
        ),
        *(_ksm("KSMPolicy", name, spec={"namespaces": [OTHER]}) for name in (OTHER, f"{OTHER}-2")),
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
    kubectl.patch("ksmpolicy", f"{OTHER}-2", _meta(finalizers=[FINALIZER, FOREIGN]))
    yield
    # Nobody is there to end it.
    kubectl("delete", *pod, "--grace-period=0", "--force")
    kubectl.patch("ksmpolicy", f"{OTHER}-2", _meta(finalizers=None))
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


AGENT_MAY: Final = {
    "tell of its own node": Try("PATCH", f"{OWN}/status", STATUS),
    "tell it by a server-side apply": Try("APPLY", f"{OWN}/status", _ksm("KSMNode", OTHER)),
}


@pytest.mark.parametrize("what", AGENT_MAY)
def test_agent_may(agent: Account, what: str) -> None:
    """The one write that an agent lives by must pass."""
    _allowed(agent.ask(AGENT_MAY[what]))


AGENT_MAY_NOT: Final = {
    "tell of another node": Try("PATCH", f"{OWN}-2/status", STATUS),
    "apply another node's status": Try("APPLY", f"{OWN}-2/status", _ksm("KSMNode", f"{OTHER}-2")),
    "give itself an order": Try("PATCH", OWN, {"spec": {"desiredState": "Merging"}}),
    "give another an order": Try("PATCH", f"{OWN}-2", {"spec": {"desiredState": "Merging"}}),
    "label its KSMNode": Try("PATCH", OWN, _meta(labels={"a": "b"})),
    "annotate its KSMNode": Try("PATCH", OWN, _meta(annotations={"a": "b"})),
    "hold its KSMNode back": Try("PATCH", OWN, _meta(finalizers=[FOREIGN])),
    "give its KSMNode away": Try("PATCH", OWN, _meta(ownerReferences=[OWNER])),
    "create a KSMNode": Try("POST", f"{KSM}/ksmnodes", NEW),
    "apply a new KSMNode": Try("APPLY", f"{KSM}/ksmnodes/new", NEW),
    "delete its KSMNode": Try("DELETE", OWN),
    "delete another's": Try("DELETE", f"{OWN}-2"),
    "delete every KSMNode": Try("DELETE", f"{KSM}/ksmnodes"),
    "create a policy": Try("POST", f"{KSM}/ksmpolicies", NEW_POLICY),
    "change a policy": Try("PATCH", POLICY, {"spec": {"namespaces": ["kube-system"]}}),
    "let a policy go": Try("PATCH", HELD, _meta(finalizers=[FOREIGN])),
    "say how a policy is": Try("PATCH", f"{POLICY}/status", {"status": {"ksmdMilliCPU": 1}}),
    "delete a policy": Try("DELETE", POLICY),
    "delete every policy": Try("DELETE", f"{KSM}/ksmpolicies"),
}


@pytest.mark.parametrize("what", AGENT_MAY_NOT)
def test_agent_may_not(agent: Account, what: str) -> None:
    """A node that is broken into must neither speak for others nor give orders."""
    words = f"the agent on node {OTHER} may only update ksmnodes/status {OTHER}, not "
    _refused(agent.ask(AGENT_MAY_NOT[what]), "agent", words)


@pytest.mark.parametrize("what", [*AGENT_MAY, *AGENT_MAY_NOT])
def test_agent_token_without_a_node_writes_nothing(homeless: Account, what: str) -> None:
    """Whoever can ask for tokens of the account is on no node, so it may write for none."""
    request = {**AGENT_MAY, **AGENT_MAY_NOT}[what]
    _refused(homeless.ask(request), "agent", "the token names no node")


def test_agents_words_are_heard_by_name(agent: Account) -> None:
    """Who is refused has to see what he asked for, or he cannot tell a bug from an attack."""
    answer = agent.ask(Try("PATCH", f"{OWN}-2/status", STATUS))
    _refused(answer, "agent", f"not UPDATE ksmnodes/status {OTHER}-2")


CONTROLLER_MAY: Final = {
    "place an agent": Try("PATCH", NODE, _meta(labels={AGENT_LABEL: "true"})),
    "withdraw an agent": Try("PATCH", NODE, _meta(labels={AGENT_LABEL: None})),
    "hold a policy's deletion": Try("PATCH", POLICY, _meta(finalizers=[FINALIZER])),
    "let a policy go": Try("PATCH", HELD, _meta(finalizers=[FOREIGN])),
    "say how a policy is": Try("PATCH", f"{POLICY}/status", {"status": {"ksmdMilliCPU": 1}}),
    "create a KSMNode": Try("POST", f"{KSM}/ksmnodes", NEW),
    "give an order": Try("PATCH", OWN, {"spec": {"desiredState": "Paused"}}),
    "delete a KSMNode": Try("DELETE", OWN),
    "change its Lease": Try("PATCH", LEASE, {"spec": {"holderIdentity": "me"}}),
}


@pytest.mark.parametrize("what", CONTROLLER_MAY)
def test_controller_may(controllers: list[Account], what: str) -> None:
    """What is narrowed must still let the operator do its work."""
    _allowed(_evenly([one.ask(CONTROLLER_MAY[what]) for one in controllers]))


ONLY_LABELS: Final = ("nodes", "ksm-operator may only label nodes, not ")
ONLY_ITS_LABEL: Final = ("nodes", f"ksm-operator may only set the node label {AGENT_LABEL} to true")
NO_FIELD: Final = ("nodes", "no taint, annotation or other field")
USERS: Final = ("policies", "KSMPolicies belong to their users: ksm-operator may not ")
NO_SPEC: Final = (
    "policies",
    f"nothing of a KSMPolicy but its status and the finalizer {FINALIZER}",
)
ONE_DAEMONSET: Final = (
    "daemonset",
    f"ksm-operator may create and update only the DaemonSet {NAMESPACE}/ksm-operator-agent",
)
ONE_LEASE: Final = (
    "lease",
    f"ksm-operator may create and update only the Lease {NAMESPACE}/ksm-operator-controller",
)
PLACED: Final = {AGENT_LABEL: "true"}

CONTROLLER_MAY_NOT: Final = {
    "set another label": (Try("PATCH", NODE, _meta(labels={"new": "b"})), ONLY_ITS_LABEL),
    "change another label": (Try("PATCH", NODE, _meta(labels={"zone": "b"})), ONLY_ITS_LABEL),
    "remove another label": (Try("PATCH", NODE, _meta(labels={"zone": None})), ONLY_ITS_LABEL),
    "hide it behind its own": (
        Try("PATCH", NODE, _meta(labels={**PLACED, "zone": "b"})),
        ONLY_ITS_LABEL,
    ),
    "set its label to nonsense": (
        Try("PATCH", NODE, _meta(labels={AGENT_LABEL: "yes"})),
        ONLY_ITS_LABEL,
    ),
    "annotate a node": (Try("PATCH", NODE, _meta(annotations={"a": "b"})), NO_FIELD),
    "hold a node back": (Try("PATCH", NODE, _meta(finalizers=[FOREIGN])), NO_FIELD),
    "give a node away": (Try("PATCH", NODE, _meta(ownerReferences=[OWNER])), NO_FIELD),
    "cordon a node": (Try("PATCH", NODE, {"spec": {"unschedulable": True}}), NO_FIELD),
    "empty a node": (
        Try("PATCH", NODE, {"spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}}),
        NO_FIELD,
    ),
    "say whose machine a node is": (Try("PATCH", NODE, {"spec": {"providerID": "x"}}), NO_FIELD),
    "cordon a node as it labels it": (
        Try("PATCH", NODE, {**_meta(labels=PLACED), "spec": {"unschedulable": True}}),
        NO_FIELD,
    ),
    "apply a taint": (
        Try(
            "APPLY",
            NODE,
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": OTHER},
                "spec": {"taints": [{"key": "k", "effect": "NoExecute"}]},
            },
        ),
        NO_FIELD,
    ),
    "report a node": (
        Try("PATCH", f"{NODE}/status", {"status": {"capacity": {"cpu": "1000"}}}),
        ONLY_LABELS,
    ),
    "label a node by its status": (
        Try("PATCH", f"{NODE}/status", _meta(labels={"zone": "b"})),
        ONLY_LABELS,
    ),
    "create a node": (
        Try("POST", "/api/v1/nodes", {"kind": "Node", "metadata": {"name": "new"}}),
        ONLY_LABELS,
    ),
    "delete a node": (Try("DELETE", NODE), ONLY_LABELS),
    "delete every node": (Try("DELETE", "/api/v1/nodes"), ONLY_LABELS),
    "create a policy": (Try("POST", f"{KSM}/ksmpolicies", NEW_POLICY), USERS),
    "apply a new policy": (Try("APPLY", f"{KSM}/ksmpolicies/new", NEW_POLICY), USERS),
    "delete a policy": (Try("DELETE", POLICY), USERS),
    "delete every policy": (Try("DELETE", f"{KSM}/ksmpolicies"), USERS),
    "widen a policy's domain": (
        Try("PATCH", POLICY, {"spec": {"namespaces": [OTHER, "kube-system"]}}),
        NO_SPEC,
    ),
    "widen it as it lets it go": (
        Try("PATCH", HELD, {**_meta(finalizers=[FOREIGN]), "spec": {"namespaces": ["a"]}}),
        NO_SPEC,
    ),
    "change how a policy merges": (Try("PATCH", POLICY, {"spec": {"mode": "Paused"}}), NO_SPEC),
    "label a policy": (Try("PATCH", POLICY, _meta(labels={"a": "b"})), NO_SPEC),
    "annotate a policy": (Try("PATCH", POLICY, _meta(annotations={"a": "b"})), NO_SPEC),
    "give a policy away": (Try("PATCH", POLICY, _meta(ownerReferences=[OWNER])), NO_SPEC),
    "hold a policy by another name": (Try("PATCH", POLICY, _meta(finalizers=[FOREIGN])), NO_SPEC),
    "let a policy go that others hold": (Try("PATCH", HELD, _meta(finalizers=None)), NO_SPEC),
    "delete its DaemonSet": (Try("DELETE", DAEMONSET), ONE_DAEMONSET),
    "delete every DaemonSet": (Try("DELETE", INSIDE), ONE_DAEMONSET),
    "report its DaemonSet": (
        Try("PATCH", f"{DAEMONSET}/status", {"status": {"numberReady": 1}}),
        ONE_DAEMONSET,
    ),
    "create another Lease": (
        Try("POST", LEASES, {"kind": "Lease", "metadata": {"name": "other"}}),
        ONE_LEASE,
    ),
    "delete its Lease": (Try("DELETE", LEASE), ONE_LEASE),
}


@pytest.mark.parametrize("what", CONTROLLER_MAY_NOT)
def test_controller_may_not(controllers: list[Account], what: str) -> None:
    """The right to patch nodes or policies is the right to take them over, were it not narrowed."""
    request, (policy, words) = CONTROLLER_MAY_NOT[what]
    answers = [one.ask(request) for one in controllers]
    _refused(_evenly(answers), f"controller-{policy}", words)


UNHEARD: Final = {
    "an agent's status": (
        Try(
            "PATCH",
            f"{OWN}/status",
            {
                **_meta(labels={"a": "b"}, finalizers=[FOREIGN], ownerReferences=[OWNER]),
                "spec": {"desiredState": "Merging"},
                **STATUS,
            },
        ),
        "status",
    ),
    "a policy's status": (
        Try(
            "PATCH",
            f"{POLICY}/status",
            {
                **_meta(labels={"a": "b"}, finalizers=[FOREIGN], ownerReferences=[OWNER]),
                "spec": {"namespaces": ["kube-system"]},
                "status": {"ksmdMilliCPU": 1},
            },
        ),
        "status",
    ),
    "a KSMNode's order": (
        Try("PATCH", OWN, {"spec": {"desiredState": "Paused"}, **STATUS}),
        "spec",
    ),
    "a policy's finalizers": (
        Try("PATCH", POLICY, {**_meta(finalizers=[FINALIZER]), "status": {"ksmdMilliCPU": 1}}),
        "metadata",
    ),
    "a node's label": (
        Try("PATCH", NODE, {**_meta(labels=PLACED), "status": {"capacity": {"cpu": "1000"}}}),
        "metadata",
    ),
}


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


RUNS_ONE: Final = "runs one container, the image"
CONTAINER_HAS: Final = "no other file, folder or claim, and probes that run no command"
PODS_HAVE: Final = "have the labels and annotations of the chart"
POD: Final = "spec.template.spec"
C: Final = f"{POD}.containers.0"
PORT: Final = {"port": 80, "host": "169.254.169.254"}
NAME: Final = {"fieldRef": {"fieldPath": "metadata.name"}}
SECRET: Final = {"secretKeyRef": {"name": "s", "key": "k"}}
AT: Final = "/usr/lib/python3"

AGENTS_MAY_NOT: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "be another image": ({f"{C}.image": "example.com/evil:1"}, RUNS_ONE),
    "be another version": ({f"{C}.image": "localhost/ksm-operator:older"}, RUNS_ONE),
    "run another command": ({f"{C}.command": ["sh", "-c", "id"]}, RUNS_ONE),
    "run the image's own command": ({f"{C}.command": []}, RUNS_ONE),
    "get other arguments": ({f"{C}.args": ["--state-dir", "/etc"]}, RUNS_ONE),
    "run something at their start": (
        {f"{C}.lifecycle": {"postStart": {"exec": {"command": ["id"]}}}},
        RUNS_ONE,
    ),
    "run something before": ({f"{POD}.initContainers": [{"name": "a", "image": "b"}]}, RUNS_ONE),
    "have a second container": ({f"{POD}.containers.1": {"name": "a", "image": "b"}}, RUNS_ONE),
    "use another account": ({f"{POD}.serviceAccountName": "ksm-operator-controller"}, RUNS_ONE),
    "obey a variable": ({f"{C}.env": [{"name": "PYTHONPATH", "valueFrom": NAME}]}, CONTAINER_HAS),
    "take another node for theirs": (
        {f"{C}.env": [{"name": "NODE_NAME", "value": "other"}]},
        CONTAINER_HAS,
    ),
    "read a Secret": ({f"{C}.env": [{"name": "NODE_NAME", "valueFrom": SECRET}]}, CONTAINER_HAS),
    "obey a ConfigMap": ({f"{C}.envFrom": [{"configMapRef": {"name": "x"}}]}, CONTAINER_HAS),
    "start in a folder": ({f"{C}.workingDir": "/run/ksm-operator"}, CONTAINER_HAS),
    "have a file in place of another": ({f"{C}.terminationMessagePath": AT}, CONTAINER_HAS),
    "have their folder elsewhere": (
        {f"{C}.volumeMounts": [{"name": "state", "mountPath": AT}]},
        CONTAINER_HAS,
    ),
    "have another folder": ({f"{POD}.volumes.0.hostPath.path": "/etc"}, CONTAINER_HAS),
    "have a second folder": (
        {f"{POD}.volumes.1": {"name": "a", "hostPath": {"path": "/run"}}},
        CONTAINER_HAS,
    ),
    "have a ConfigMap's files": (
        {f"{POD}.volumes.1": {"name": "a", "configMap": {"name": "b"}}},
        CONTAINER_HAS,
    ),
    "have a Secret's files": (
        {f"{POD}.volumes.1": {"name": "a", "secret": {"secretName": "b"}}},
        CONTAINER_HAS,
    ),
    "have an image's files": (
        {f"{POD}.volumes.1": {"name": "a", "image": {"reference": "b"}}},
        CONTAINER_HAS,
    ),
    "have a disk": (
        {
            f"{POD}.volumes.1": {"name": "a", "persistentVolumeClaim": {"claimName": "b"}},
            f"{C}.volumeDevices": [{"name": "a", "devicePath": "/dev/a"}],
        },
        CONTAINER_HAS,
    ),
    "have what a device's driver brings": (
        {f"{POD}.resourceClaims": [{"name": "a", "resourceClaimName": "b"}]},
        CONTAINER_HAS,
    ),
    "run something to start": ({f"{C}.startupProbe": {"exec": {"command": ["a"]}}}, CONTAINER_HAS),
    "run something to live": ({f"{C}.livenessProbe": {"exec": {"command": ["a"]}}}, CONTAINER_HAS),
    "run something to be ready": (
        {f"{C}.readinessProbe": {"exec": {"command": ["a"]}}},
        CONTAINER_HAS,
    ),
    "ask another host": ({f"{C}.livenessProbe.httpGet.host": "169.254.169.254"}, CONTAINER_HAS),
    "ask another host, before": ({f"{C}.startupProbe": {"httpGet": PORT}}, CONTAINER_HAS),
    "knock elsewhere": ({f"{C}.startupProbe": {"tcpSocket": PORT}}, CONTAINER_HAS),
    "be labelled for others": (
        {"spec.template.metadata.labels": {"sidecar.istio.io/inject": "true"}},
        PODS_HAVE,
    ),
    "be annotated for others": (
        {"spec.template.metadata.annotations": {"inject.istio.io/templates": "x"}},
        PODS_HAVE,
    ),
}


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
        _refused(_evenly(answers), "controller-daemonset", ONE_DAEMONSET[1])


RESERVED: Final = "is not allowed to "
UNRELATED: Final = "no relationship found"
NO_RIGHT: Final = 'User "system:node:node-1" cannot '
OTHERS_NODE: Final = "is not allowed to modify node"

KUBELET_MAY_NOT: Final = {
    "place an agent on its node": (Try("PATCH", MACHINE, _meta(labels=PLACED)), RESERVED),
    "place one by its status": (Try("PATCH", f"{MACHINE}/status", _meta(labels=PLACED)), RESERVED),
    "come with an agent": (
        Try(
            "POST",
            "/api/v1/nodes",
            {"kind": "Node", "metadata": {"name": "node-1", "labels": PLACED}},
        ),
        RESERVED,
    ),
    "place an agent elsewhere": (Try("PATCH", NODE, _meta(labels=PLACED)), OTHERS_NODE),
    "give an order": (Try("PATCH", OWN, {"spec": {"desiredState": "Merging"}}), NO_RIGHT),
    "create a KSMNode": (Try("POST", f"{KSM}/ksmnodes", _ksm("KSMNode", "node-1")), NO_RIGHT),
    "delete a KSMNode": (Try("DELETE", OWN), NO_RIGHT),
    "speak for an agent": (Try("PATCH", f"{OWN}/status", STATUS), NO_RIGHT),
    "speak for its agent": (Try("PATCH", f"{KSM}/ksmnodes/node-1/status", STATUS), NO_RIGHT),
    "create a policy": (Try("POST", f"{KSM}/ksmpolicies", NEW_POLICY), NO_RIGHT),
    "change a policy": (Try("PATCH", POLICY, {"spec": {"namespaces": ["a"]}}), NO_RIGHT),
    "let a policy go": (Try("PATCH", HELD, _meta(finalizers=None)), NO_RIGHT),
    "change the agents": (Try("PATCH", DAEMONSET, {}), NO_RIGHT),
    "take the Lease": (Try("PATCH", LEASE, {"spec": {"holderIdentity": "me"}}), NO_RIGHT),
    "become another node's agent": (
        Try(
            "POST",
            TOKEN,
            {
                "spec": {
                    "boundObjectRef": {
                        "apiVersion": "v1",
                        "kind": "Pod",
                        "name": OTHER,
                        "uid": "0",
                    }
                }
            },
        ),
        UNRELATED,
    ),
    "become an agent of no node": (Try("POST", TOKEN, {}), UNRELATED),
}


@pytest.mark.parametrize("what", KUBELET_MAY_NOT)
def test_kubelet_may_not(kubelet: Account, what: str) -> None:
    """A node that is broken into must not draw agents, orders or other nodes' tokens to itself."""
    request, words = KUBELET_MAY_NOT[what]
    answer = kubelet.ask(request)
    assert answer.code == 403, answer
    assert words in answer.message


def test_kubelet_may_label_its_node_otherwise(kubelet: Account) -> None:
    """Or the refusals above would be about labels at large, and prove nothing about ours."""
    _allowed(kubelet.ask(Try("PATCH", MACHINE, _meta(labels={"example.com/a": "b"}))))


def test_policies_touch_nobody_else(spare: None) -> None:
    """An administrator, a kubelet or another operator must never meet our admission policies."""
    requests = [request for request, _ in CONTROLLER_MAY_NOT.values()]
    # What dry runs of whole collections would say depends on everything in the cluster.
    requests = [one for one in requests if one.method != "DELETE"]
    with accounts.administrator() as administrator:
        for request in (*requests, *AGENT_MAY.values()):
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
