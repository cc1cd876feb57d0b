"""The operator's chart without what would run: kinds, rights, admission policies, and a token."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from benchmarks.controller.control_plane import REPOSITORY, kubectl
from local_cluster import certificates, layout
from local_cluster.certificates import AUTHORITY
from local_cluster.components import program

if TYPE_CHECKING:
    from benchmarks.controller.client import Client

NAMESPACE: Final = "ksm-operator"
CONTROLLER: Final = "ksm-operator-controller"
TEMPLATE: Final = layout.STATE / "agent-daemonset.yaml"
KUBECONFIG: Final = layout.STATE / "kubeconfigs" / "controller"
_TOKEN_SECONDS: Final = 4 * 3600


def install(client: Client) -> None:
    """Apply everything of the chart but pods, and write down what the controller is given."""
    objects = _rendered()
    crds = [one for one in objects if one["kind"] == "CustomResourceDefinition"]
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    _apply(namespace, *crds)
    kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    _apply(*(one for one in objects if one not in crds))
    template = next(one for one in objects if one["kind"] == "ConfigMap")
    TEMPLATE.write_text(template["data"]["daemonset.yaml"])
    _write_kubeconfig(client)


def _rendered() -> list[dict[str, Any]]:
    """Return the chart's objects; its Deployment is there, because it owns the DaemonSet."""
    command = [
        str(program("helm")),
        *("template", "ksm-operator", str(REPOSITORY / "helm" / "ksm-operator"), "--no-hooks"),
        *("--namespace", NAMESPACE, "--set", "image.repository=localhost/ksm-operator"),
        *("--set", "image.tag=dev"),
    ]
    text = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    objects = [one for one in yaml.safe_load_all(text) if one]
    for one in objects:
        if one["kind"] == "Deployment":
            one["spec"]["replicas"] = 0
    return objects


def _apply(*objects: dict[str, Any]) -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": objects}
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(listed))


def _write_kubeconfig(client: Client) -> None:
    """Write a kubeconfig with a token of the controller's own account."""
    path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{CONTROLLER}/token"
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": _TOKEN_SECONDS},
    }
    token = json.loads(client.request("POST", path, request))["status"]["token"]
    server = certificates.Kubeconfig(certificates.ADMIN, Path()).server
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "one", "cluster": {"server": server, "certificate-authority": str(AUTHORITY)}}
        ],
        "users": [{"name": CONTROLLER, "user": {"token": token}}],
        "contexts": [{"name": "one", "context": {"cluster": "one", "user": CONTROLLER}}],
        "current-context": "one",
    }
    KUBECONFIG.touch(mode=0o600)
    KUBECONFIG.write_text(json.dumps(document))
