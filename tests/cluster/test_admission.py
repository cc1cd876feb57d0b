"""What the operator's own accounts may do, asked of the API server with their own tokens.

Nearly every write is a server-side dry run: admission judges it in full and nothing happens.
The accounts get rights here that the chart never gives them, so that what refuses a request is
admission alone and not RBAC.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from cluster.command import Kubectl, wait_until

if TYPE_CHECKING:
    from subprocess import CompletedProcess

pytestmark = pytest.mark.cluster

NAMESPACE: Final = "ksm-operator"
OTHER: Final = "admission-test"
LABEL: Final = "ksm-operator.node-restriction.kubernetes.io/agent"

Account = Callable[..., "CompletedProcess[str]"]


@pytest.fixture(scope="module")
def no_controller(kubectl: Kubectl, operator_installed: object) -> Iterator[None]:
    """The controller stopped, so that it does not tidy up the objects that these tests make."""
    deployment = ("deployment/ksm-operator-controller", "-n", NAMESPACE)
    kubectl("scale", *deployment, "--replicas=0")
    kubectl("rollout", "status", *deployment, "--timeout=60s")
    yield
    kubectl("scale", *deployment, "--replicas=1")
    kubectl("rollout", "status", *deployment, "--timeout=120s", timeout=150)


@pytest.fixture(scope="module")
def spare(kubectl: Kubectl, no_controller: None) -> Iterator[str]:
    """A node without a machine, and a KSMNode for it."""
    made = (
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": OTHER}},
        {
            "apiVersion": "ksm-operator.dev/v1alpha1",
            "kind": "KSMNode",
            "metadata": {"name": OTHER},
            "spec": {"desiredState": "Released"},
        },
        {
            "apiVersion": "ksm-operator.dev/v1alpha1",
            "kind": "KSMNode",
            "metadata": {"name": f"{OTHER}-2"},
            "spec": {"desiredState": "Released"},
        },
    )
    kubectl.apply(*made)
    yield OTHER
    kubectl("delete", "ksmnode", OTHER, f"{OTHER}-2", "--ignore-not-found")
    kubectl("delete", "node", OTHER, "--ignore-not-found")


@pytest.fixture(scope="module")
def widened(kubectl: Kubectl, operator_installed: object) -> Iterator[None]:
    """Rights as a careless administrator might add them to both accounts."""
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": OTHER},
        "rules": [
            {"apiGroups": [group], "resources": resources, "verbs": ["*"]}
            for group, resources in (
                ("ksm-operator.dev", ["ksmnodes", "ksmnodes/status", "ksmpolicies"]),
                ("", ["nodes", "nodes/status"]),
                ("apps", ["daemonsets"]),
            )
        ],
    }
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
            {"kind": "ServiceAccount", "name": f"ksm-operator-{part}", "namespace": NAMESPACE}
            for part in ("agent", "controller")
        ],
    }
    kubectl.apply(role, binding)
    yield
    kubectl("delete", "clusterrolebinding,clusterrole", OTHER, "--ignore-not-found")


@pytest.fixture(scope="module")
def account(
    kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory, widened: None
) -> Callable[..., Account]:
    """Makes a kubectl that speaks with the token of an account, bound to a node if one is named."""

    def speak_as(part: str, node: str | None = None) -> Account:
        bound = ["--bound-object-kind=Node", f"--bound-object-name={node}"] if node else []
        name = f"ksm-operator-{part}"
        token = kubectl("create", "token", name, "-n", NAMESPACE, *bound).stdout.strip()
        path = tmp_path_factory.mktemp("account") / "kubeconfig"
        path.write_text(json.dumps(_kubeconfig(kubectl, token)))
        return lambda *arguments, **options: kubectl(
            f"--kubeconfig={path}", *arguments, check=False, **options
        )

    return speak_as


def _kubeconfig(kubectl: Kubectl, token: str) -> dict[str, Any]:
    """The present cluster with a token in place of the administrator's credentials."""
    shown = kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json").stdout
    config: dict[str, Any] = json.loads(shown)
    config["users"] = [{"name": config["users"][0]["name"], "user": {"token": token}}]
    return config


@pytest.fixture(scope="module")
def agent(account: Callable[..., Account], spare: str) -> Account:
    """The agent on the node `OTHER`."""
    return account("agent", spare)


@pytest.fixture(scope="module")
def controller(account: Callable[..., Account]) -> Account:
    """The controller."""
    return account("controller")


def _status(speaker: Account, name: str) -> "CompletedProcess[str]":
    patch = json.dumps({"status": {"agentVersion": "1", "foreignMergers": []}})
    return speaker(
        "patch", "ksmnode", name, "--subresource=status", "--type=merge", f"--patch={patch}",
        "--dry-run=server",
    )  # fmt: skip


def _patch_node(speaker: Account, patch: dict[str, Any], *more: str) -> "CompletedProcess[str]":
    return speaker(
        "patch", "node", OTHER, "--type=merge", f"--patch={json.dumps(patch)}",
        "--dry-run=server", *more,
    )  # fmt: skip


def _allowed(done: "CompletedProcess[str]") -> None:
    assert done.returncode == 0, done.stderr


def _refused(done: "CompletedProcess[str]", policy: str, words: str) -> None:
    assert done.returncode != 0, f"allowed: {done.stdout}"
    assert f"ValidatingAdmissionPolicy 'ksm-operator-{policy}'" in done.stderr
    assert words in done.stderr


def test_agent_writes_the_status_of_its_own_node(agent: Account, spare: str) -> None:
    """The one write that an agent lives by must pass."""
    _allowed(_status(agent, spare))


def test_agent_cannot_write_another_nodes_status(agent: Account, spare: str) -> None:
    """A broken-into node must not speak for others, and must be told so in words."""
    _refused(
        _status(agent, f"{spare}-2"),
        "agent",
        f"the agent on node {spare} may only update ksmnodes/status {spare}, "
        f"not UPDATE ksmnodes/status {spare}-2",
    )


def test_agent_token_without_a_node_writes_nothing(
    account: Callable[..., Account], spare: str
) -> None:
    """A token that was asked for by hand is bound to no node, so it may write for none."""
    _refused(_status(account("agent"), spare), "agent", "the token names no node")


def test_agent_cannot_change_what_it_shall_do(agent: Account, spare: str) -> None:
    """A node's agent could otherwise grant its node to a policy, or delete its own order."""
    patch = '--patch={"spec":{"desiredState":"Merging"}}'
    changed = agent("patch", "ksmnode", spare, "--type=merge", patch, "--dry-run=server")
    _refused(changed, "agent", f"not UPDATE ksmnodes {spare}")
    _refused(agent("delete", "ksmnode", spare, "--dry-run=server"), "agent", "not DELETE ksmnodes")
    policy = {
        "apiVersion": "ksm-operator.dev/v1alpha1",
        "kind": "KSMPolicy",
        "metadata": {"name": "admission-test"},
        "spec": {"namespaces": ["kube-system"]},
    }
    created = agent("create", "-f", "-", "--dry-run=server", input=json.dumps(policy))
    _refused(created, "agent", "not CREATE ksmpolicies")


@pytest.mark.parametrize("value", ["true", None])
def test_controller_sets_and_removes_its_label(
    controller: Account, spare: str, value: str | None
) -> None:
    """Placing and withdrawing the agent is the controller's work."""
    _allowed(_patch_node(controller, {"metadata": {"labels": {LABEL: value}}}))


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        ({"metadata": {"labels": {"zone": "b"}}}, "may only set the node label"),
        ({"metadata": {"labels": {LABEL: "yes"}}}, "may only set the node label"),
        ({"metadata": {"annotations": {"a": "b"}}}, "no taint, annotation or other field"),
        ({"metadata": {"finalizers": ["a.example/b"]}}, "no taint, annotation or other field"),
        ({"spec": {"unschedulable": True}}, "no taint, annotation or other field"),
        (
            {"spec": {"taints": [{"key": "k", "effect": "NoExecute"}]}},
            "no taint, annotation or other field",
        ),
        (
            {"metadata": {"labels": {LABEL: "true"}}, "spec": {"unschedulable": True}},
            "no taint, annotation or other field",
        ),
    ],
)
def test_controller_changes_nothing_else_of_a_node(
    controller: Account, spare: str, patch: dict[str, Any], words: str
) -> None:
    """The right to patch nodes is the right to drain or hijack them, were it not narrowed."""
    _refused(_patch_node(controller, patch), "controller", words)


def test_controller_neither_deletes_nor_reports_nodes(controller: Account, spare: str) -> None:
    """Deleting a Node evicts its pods, and its status is its kubelet's."""
    _refused(
        controller("delete", "node", spare, "--dry-run=server"), "controller", "not DELETE them"
    )
    status = {"status": {"capacity": {"cpu": "1000"}}}
    _refused(
        _patch_node(controller, status, "--subresource=status"), "controller", "UPDATE them (status"
    )


@pytest.fixture
def daemonset(kubectl: Kubectl, operator_installed: object) -> dict[str, Any]:
    """The agents' DaemonSet as the chart has it."""
    text = kubectl.get("configmap", "ksm-operator-agent", "-n", NAMESPACE)["data"]["daemonset.yaml"]
    parsed: dict[str, Any] = yaml.safe_load(text)
    return parsed


def _apply(speaker: Account, manifest: dict[str, Any]) -> "CompletedProcess[str]":
    return speaker(
        "apply", "--server-side", "--force-conflicts", "--field-manager=ksm-operator-controller",
        "--dry-run=server", "-f", "-", input=json.dumps(manifest),
    )  # fmt: skip


def test_controller_applies_the_agents_daemonset(
    controller: Account, daemonset: dict[str, Any]
) -> None:
    """The template of the chart, as the API server completes it, must pass its own policy."""
    _allowed(_apply(controller, daemonset))


def _run_another_image(manifest: dict[str, Any]) -> None:
    manifest["spec"]["template"]["spec"]["containers"][0]["image"] = "example.com/evil:1"


def _run_another_command(manifest: dict[str, Any]) -> None:
    manifest["spec"]["template"]["spec"]["containers"][0]["command"] = ["sh", "-c", "id"]


def _add_a_container(manifest: dict[str, Any]) -> None:
    containers = manifest["spec"]["template"]["spec"]["containers"]
    containers.append({**containers[0], "name": "second", "ports": []})


def _run_something_before(manifest: dict[str, Any]) -> None:
    pod = manifest["spec"]["template"]["spec"]
    pod["initContainers"] = [{"name": "first", "image": pod["containers"][0]["image"]}]


def _use_another_account(manifest: dict[str, Any]) -> None:
    manifest["spec"]["template"]["spec"]["serviceAccountName"] = "ksm-operator-controller"


@pytest.mark.parametrize(
    "spoil",
    [
        _run_another_image,
        _run_another_command,
        _add_a_container,
        _run_something_before,
        _use_another_account,
    ],
)
def test_controller_runs_nothing_but_the_agent(
    controller: Account, daemonset: dict[str, Any], spoil: Callable[[dict[str, Any]], None]
) -> None:
    """A privileged DaemonSet is root everywhere; it must not carry anybody's program."""
    spoil(daemonset)
    _refused(_apply(controller, daemonset), "controller", "runs one container, the image")


@pytest.mark.parametrize(
    "change",
    [
        {"env": [{"name": "PYTHONPATH", "value": "/x"}]},
        {"envFrom": [{"configMapRef": {"name": "x"}}]},
        {"startupProbe": {"exec": {"command": ["id"]}}},
        {"volumeMounts": [{"name": "state", "mountPath": "/opt/ksm-operator"}]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_controller_makes_the_agents_container_run_nothing_else(
    controller: Account, daemonset: dict[str, Any], change: dict[str, Any]
) -> None:
    """The right image runs anything if its variables, files or probes say so."""
    daemonset["spec"]["template"]["spec"]["containers"][0].update(change)
    _refused(_apply(controller, daemonset), "controller", "probes that run no command")


def test_controller_gives_the_agent_no_other_volume(
    controller: Account, daemonset: dict[str, Any]
) -> None:
    """A file of one's own choice in a privileged container is a program of one's own choice."""
    volumes = daemonset["spec"]["template"]["spec"]["volumes"]
    volumes[0]["hostPath"]["path"] = "/etc"
    _refused(_apply(controller, daemonset), "controller", "probes that run no command")


def test_controller_applies_no_other_daemonset(
    controller: Account, daemonset: dict[str, Any]
) -> None:
    """Neither another name nor another namespace."""
    daemonset["metadata"]["name"] = "other"
    _refused(_apply(controller, daemonset), "controller", "may create and update only")
    daemonset["metadata"].update(name="ksm-operator-agent", namespace="default")
    _refused(_apply(controller, daemonset), "controller", "may create and update only")


def test_policies_touch_nobody_else(kubectl: Kubectl, spare: str, tmp_path: Path) -> None:
    """An administrator, a kubelet or another operator must never meet our admission policies."""
    labels = {"metadata": {"labels": {"zone": "b"}}, "spec": {"unschedulable": True}}
    _allowed(_patch_node(kubectl, labels))
    _allowed(_status(kubectl, spare))


@pytest.mark.parametrize("part", ["agent", "controller"])
def test_expressions_fit_the_types_of_the_api(
    kubectl: Kubectl, operator_installed: object, part: str
) -> None:
    """A misspelt field would refuse every request, at run time only."""

    def status() -> dict[str, Any]:
        found = kubectl.get("validatingadmissionpolicy", f"ksm-operator-{part}")
        judged: dict[str, Any] = found.get("status", {})
        return judged if judged.get("observedGeneration") == found["metadata"]["generation"] else {}

    judged = wait_until(status, 30, "the admission policy is type-checked")
    assert not judged["typeChecking"].get("expressionWarnings")
