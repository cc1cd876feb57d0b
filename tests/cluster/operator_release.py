"""The operator on the local cluster: installed with Helm, removed, forced away after a crash."""

import json
from pathlib import Path
from typing import Any

import yaml

from cluster.command import Command, Kubectl, wait_until
from cluster.pods import IMAGE

NAMESPACE = "ksm-operator"
RELEASE = "ksm-operator"
CHART = "helm/ksm-operator"
CRDS = ("ksmpolicies.ksm-operator.dev", "ksmnodes.ksm-operator.dev")
AGENT_LABEL = "ksm-operator.node-restriction.kubernetes.io/agent"
OPERATOR_SELECTOR = "app.kubernetes.io/name=ksm-operator"
AGENT_SELECTOR = f"{OPERATOR_SELECTOR},app.kubernetes.io/component=agent"
CONTROLLER_SELECTOR = f"{OPERATOR_SELECTOR},app.kubernetes.io/component=controller"
CONTROLLER = ("deployment/ksm-operator-controller", "-n", NAMESPACE)
OF_TESTS = "ksm-operator-tests"
"""Label on every namespace and policy that these tests make: nothing else is ever deleted."""
CLUSTER_KINDS = (
    "clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings"
)
NAMESPACED_KINDS = (
    "deployments,daemonsets,pods,configmaps,serviceaccounts,roles,rolebindings,jobs,leases,secrets"
)
HOST_STATE = Path("/run/ksm-operator")
"""What agents keep on the host until it boots; no pod can remove the folder of its own mount."""


def install(kubectl: Kubectl, helm: Command, *arguments: str) -> None:
    """Install the chart, or upgrade the release, as the README says, and wait until it is ready."""
    repository, _, tag = IMAGE.rpartition(":")
    kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": NAMESPACE,
                "labels": {OF_TESTS: "true", "pod-security.kubernetes.io/enforce": "privileged"},
            },
        }
    )
    helm(
        *("upgrade", "--install", RELEASE, CHART, "--namespace", NAMESPACE),
        *("--set", f"image.repository={repository}", "--set", f"image.tag={tag}"),
        # Not the default: names of pods are shown on request only.
        *("--set", "metrics.perContainer=true"),
        *arguments,
        # Somebody may have applied crds/ by hand before.
        *("--take-ownership", "--wait", "--timeout", "90s"),
        timeout=120,
    )


def uninstall(helm: Command, *arguments: str) -> None:
    """Uninstall the release, as the README says."""
    helm(
        *("uninstall", RELEASE, "--namespace", NAMESPACE, "--wait", "--timeout", "5m"),
        *arguments,
        timeout=320,
    )


def stop_controller(kubectl: Kubectl) -> None:
    """Scale the controller to nothing, and wait for the end of its process.

    `kubectl rollout status` is content while the last pod still works.
    """
    kubectl("scale", *CONTROLLER, "--replicas=0")
    pods = ("pod", "-n", NAMESPACE, "-l", CONTROLLER_SELECTOR)
    kubectl("wait", "--for=delete", *pods, "--timeout=60s")


def start_controller(kubectl: Kubectl) -> None:
    """Scale the controller to one again, and wait until it is ready."""
    kubectl("scale", *CONTROLLER, "--replicas=1")
    kubectl("rollout", "status", *CONTROLLER, "--timeout=120s", timeout=150)


def is_installed(helm: Command) -> bool:
    """Whether the release exists, in whatever state."""
    listed = helm("list", "--namespace", NAMESPACE, "--output", "json").stdout
    return any(release["name"] == RELEASE for release in json.loads(listed))


def installed_objects(helm: Command) -> list[dict[str, Any]]:
    """What the chart made of the release, with what it makes only for an uninstallation."""
    of_release = (RELEASE, "--namespace", NAMESPACE)
    texts = [helm("get", kind, *of_release).stdout for kind in ("manifest", "hooks")]
    return [one for text in texts for one in yaml.safe_load_all(text) if one]


def is_of_tests(kubectl: Kubectl) -> bool:
    """Whether the operator's namespace was made by these tests."""
    namespace = kubectl.find("namespace", NAMESPACE)
    return bool(namespace and OF_TESTS in namespace["metadata"].get("labels", {}))


def left_behind(kubectl: Kubectl) -> list[str]:
    """Every object of the operator that is still there, but for what Helm keeps."""
    shown = kubectl("get", CLUSTER_KINDS, "-l", OPERATOR_SELECTOR, "-o", "name").stdout.split()
    inside = kubectl(
        "get", NAMESPACED_KINDS, "-A", "-l", OPERATOR_SELECTOR, "-o", "name"
    ).stdout.split()
    nodes = kubectl("get", "nodes", "-l", AGENT_LABEL, "-o", "name").stdout.split()
    return [*shown, *inside, *nodes]


def assert_gone(kubectl: Kubectl) -> None:
    """Nothing of the operator is left in the cluster but the CRDs and the users' policies."""
    wait_until(lambda: not left_behind(kubectl) or None, 30, "the operator is gone")


def crds(kubectl: Kubectl) -> set[str]:
    """Names of the operator's CRDs that are there."""
    return {name for name in CRDS if kubectl.find("crd", name)}


def delete_kept(kubectl: Kubectl, but: set[str]) -> None:
    """Delete what an uninstall keeps on purpose, and the namespace.

    Args:
        kubectl: the cluster.
        but: CRDs that were there before.
    """
    if ours := set(CRDS) - but:
        kubectl("delete", "crd", *ours, "--ignore-not-found", "--timeout=60s")
    kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=60s")


def force_away_policies(kubectl: Kubectl) -> None:
    """Take policies of tests away without asking the operator, after a test that broke it."""
    if kubectl.find("crd", CRDS[0]) is None:
        return
    names = [
        item["metadata"]["name"] for item in kubectl.items("ksmpolicies", "-l", f"{OF_TESTS}=true")
    ]
    for name in names:
        kubectl("delete", "ksmpolicy", name, "--ignore-not-found", "--wait=false")
        no_finalizers = ("--type=merge", '--patch={"metadata":{"finalizers":null}}')
        kubectl("patch", "ksmpolicy", name, *no_finalizers, check=False)


def force_away_nodes(kubectl: Kubectl) -> None:
    """Take agents and their nodes' objects away, once no process of a test is left."""
    kubectl("label", "nodes", "--all", f"{AGENT_LABEL}-")
    if kubectl.find("crd", CRDS[1]) is not None:
        kubectl("delete", "ksmnodes", "--all", "--timeout=30s")
    kubectl("delete", "pods", "-n", NAMESPACE, "-l", AGENT_SELECTOR, "--timeout=60s")
    (HOST_STATE / "state.json").unlink(missing_ok=True)


def force_away_namespaces(kubectl: Kubectl) -> None:
    """Delete the namespaces of former tests, but for the operator's, and wait."""
    selector = f"{OF_TESTS}=true,kubernetes.io/metadata.name!={NAMESPACE}"
    kubectl("delete", "namespaces", "-l", selector, "--timeout=90s", timeout=100)


def clean_leftovers(kubectl: Kubectl, helm: Command) -> None:
    """Remove what an aborted run left: policies, pods, agents, the release."""
    force_away_policies(kubectl)
    force_away_namespaces(kubectl)
    if is_of_tests(kubectl):
        force_away_nodes(kubectl)
        if is_installed(helm):
            helm("uninstall", RELEASE, "--namespace", NAMESPACE, "--no-hooks", "--wait")
        delete_kept(kubectl, but=set())
