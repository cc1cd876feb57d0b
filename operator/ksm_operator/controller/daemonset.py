"""The agent DaemonSet: from the chart's template, owned by the controller's Deployment.

Owned, so that agents never outlive the operator: whoever deletes the Deployment, by Helm or by
hand, lets the garbage collector delete the agents, and each stops ksmd as it goes.
"""

from pathlib import Path
from typing import Any

import yaml

from ksm_operator.controller import log
from ksm_operator.controller.cluster import Cluster, NotFoundError
from ksm_operator.controller.lease import Lease


class TemplateError(ValueError):
    """The template is no DaemonSet."""


def agent_daemonset(template: str, deployment: dict[str, Any]) -> dict[str, Any]:
    """Return the agent DaemonSet, owned by the Deployment.

    Raises:
        TemplateError: the template is not one apps/v1 DaemonSet.
    """
    try:
        daemonset = yaml.safe_load(template)
    except yaml.YAMLError as error:
        raise TemplateError(f"the agent template is no YAML: {error}") from error
    if not isinstance(daemonset, dict) or (
        daemonset.get("apiVersion"),
        daemonset.get("kind"),
    ) != ("apps/v1", "DaemonSet"):
        raise TemplateError(
            "the agent template is no apps/v1 DaemonSet: "
            "check the chart's ConfigMap, key daemonset.yaml"
        )
    owner = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "name": deployment["metadata"]["name"],
        "uid": deployment["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": False,
    }
    namespace = deployment["metadata"]["namespace"]
    metadata = {**daemonset["metadata"], "namespace": namespace, "ownerReferences": [owner]}
    return {**daemonset, "metadata": metadata}


def apply_agent(
    cluster: Cluster, lease: Lease, template: Path, namespace: str, deployment: str
) -> None:
    """Apply the agent DaemonSet.

    On the version that is there: what a controller of a former version still had in its hands when
    it was frozen is refused.

    Raises:
        TemplateError: the template is no DaemonSet.
        OSError: the template cannot be read.
        ClusterError: the API server refused or did not answer.
        LeaseLostError: this process may not write any more.
    """
    apps = f"/apis/apps/v1/namespaces/{namespace}"
    owner = cluster.get(f"{apps}/deployments/{deployment}")
    daemonset = agent_daemonset(template.read_text(), owner)
    name = daemonset["metadata"]["name"]
    path = f"{apps}/daemonsets/{name}"
    if present := _version(cluster, path):
        daemonset["metadata"]["resourceVersion"] = present
    lease.ensure()
    applied = cluster.apply(path, daemonset)
    log.info(
        "agent DaemonSet applied",
        daemonset=f"{namespace}/{name}",
        generation=applied["metadata"]["generation"],
    )


def _version(cluster: Cluster, path: str) -> str:
    """Return the resourceVersion of an object, empty if there is none."""
    try:
        return str(cluster.get(path)["metadata"]["resourceVersion"])
    except NotFoundError:
        return ""
