"""What RBAC gives the operator's accounts, tried on the API server with tokens of theirs."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, Final

import pytest
import yaml

from cluster import accounts
from cluster.accounts import Account, Try
from cluster.command import Command, Kubectl
from cluster.operator_release import NAMESPACE, RELEASE, installed_objects
from cluster.rights import Request, Right, rights

pytestmark = pytest.mark.cluster

PARTS: Final = ("agent", "controller", "uninstall")
SOME_NAME: Final = "rbac-test"
"""Of objects that are not there: what RBAC lets through finds nothing."""
METHODS: Final = {
    "get": "GET",
    "list": "GET",
    "watch": "GET",
    "create": "POST",
    "update": "PUT",
    "patch": "PATCH",
    "delete": "DELETE",
    "deletecollection": "DELETE",
}
WITHOUT_NAME: Final = ("list", "watch", "create", "deletecollection")
INSIDE: Final = f"/api/v1/namespaces/{NAMESPACE}"
APPS: Final = "/apis/apps/v1/namespaces"
LEASES: Final = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
KSM: Final = "/apis/ksm-operator.dev/v1alpha1"
RBAC: Final = "/apis/rbac.authorization.k8s.io/v1"
ADMITTED: Final = "/apis/admissionregistration.k8s.io/v1/validatingadmission"
CRDS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@pytest.fixture(scope="module")
def objects(helm: Command, operator_installed: object) -> list[dict[str, Any]]:
    """The chart's objects as they are installed, with those of the uninstallation."""
    return installed_objects(helm)


@pytest.fixture(scope="module")
def uninstalling(kubectl: Kubectl, objects: list[dict[str, Any]]) -> Iterator[None]:
    """The account that exists only while the release is being uninstalled, with its rights."""
    kinds = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
    mine = [
        one
        for one in objects
        if one["kind"] in kinds and one["metadata"]["name"] == f"{RELEASE}-uninstall"
    ]
    assert {one["kind"] for one in mine} == set(kinds)
    kubectl.apply(*mine)
    yield
    kubectl("delete", "-f", "-", input=yaml.safe_dump_all(mine))


@pytest.fixture(scope="module")
def speakers(kubectl: Kubectl, uninstalling: None) -> Iterator[dict[str, Account]]:
    """The operator's accounts, by what they are for."""
    with contextlib.ExitStack() as stack:
        yield {
            part: stack.enter_context(accounts.service_account(kubectl, f"{RELEASE}-{part}"))
            for part in PARTS
        }


SENSITIVE: Final = {
    "agent": {
        "read a Secret": f"GET {INSIDE}/secrets/x",
        "read every Secret": "GET /api/v1/secrets",
        "read a ConfigMap": f"GET {INSIDE}/configmaps/x",
        "read a Node": "GET /api/v1/nodes/x",
        "label a Node": "PATCH /api/v1/nodes/x",
        "ask a kubelet": "GET /api/v1/nodes/x/proxy/pods",
        "create a pod": f"POST {INSIDE}/pods",
        "change a pod": f"PATCH {INSIDE}/pods/x",
        "delete a pod": f"DELETE {INSIDE}/pods/x",
        "evict a pod": f"POST {INSIDE}/pods/x/eviction",
        "run something in a pod": f"POST {INSIDE}/pods/x/exec?command=id",
        "add a container to a pod": f"PATCH {INSIDE}/pods/x/ephemeralcontainers",
        "read a log": f"GET {INSIDE}/pods/x/log",
        "post an Event": "POST /api/v1/namespaces/default/events",
        "take the controller's Lease": f"PUT {LEASES}/ksm-operator-controller",
        "become the controller": f"POST {INSIDE}/serviceaccounts/ksm-operator-controller/token",
        "become an agent elsewhere": f"POST {INSIDE}/serviceaccounts/ksm-operator-agent/token",
        "give an order": f"PATCH {KSM}/ksmnodes/x",
        "replace a status": f"PUT {KSM}/ksmnodes/x/status",
        "create a KSMNode": f"POST {KSM}/ksmnodes",
        "delete a KSMNode": f"DELETE {KSM}/ksmnodes/x",
        "delete every KSMNode": f"DELETE {KSM}/ksmnodes",
        "read policies": f"GET {KSM}/ksmpolicies",
        "create a policy": f"POST {KSM}/ksmpolicies",
        "change a policy": f"PATCH {KSM}/ksmpolicies/x",
        "say how a policy is": f"PATCH {KSM}/ksmpolicies/x/status",
    },
    "controller": {
        "read a Secret": f"GET {INSIDE}/secrets/x",
        "read every Secret": "GET /api/v1/secrets",
        "see pods": "GET /api/v1/pods",
        "create a pod": f"POST {INSIDE}/pods",
        "run something in a pod": f"POST {INSIDE}/pods/x/exec?command=id",
        "create a Node": "POST /api/v1/nodes",
        "delete a Node": "DELETE /api/v1/nodes/x",
        "delete every Node": "DELETE /api/v1/nodes",
        "report a Node": "PATCH /api/v1/nodes/x/status",
        "ask a kubelet": "POST /api/v1/nodes/x/proxy/run/a",
        "label a namespace into a domain": "PATCH /api/v1/namespaces/x",
        "speak for an agent": f"PATCH {KSM}/ksmnodes/x/status",
        "create a policy": f"POST {KSM}/ksmpolicies",
        "delete a policy": f"DELETE {KSM}/ksmpolicies/x",
        "apply another DaemonSet": f"APPLY {APPS}/ksm-operator/daemonsets/x",
        "post a DaemonSet": f"POST {APPS}/ksm-operator/daemonsets",
        "apply a DaemonSet elsewhere": f"APPLY {APPS}/default/daemonsets/ksm-operator-agent",
        "delete its DaemonSet": f"DELETE {APPS}/ksm-operator/daemonsets/ksm-operator-agent",
        "change its Deployment": f"PATCH {APPS}/ksm-operator/deployments/ksm-operator-controller",
        "create a Deployment": f"POST {APPS}/ksm-operator/deployments",
        "change the agents' template": f"PATCH {INSIDE}/configmaps/ksm-operator-agent",
        "become an agent": f"POST {INSIDE}/serviceaccounts/ksm-operator-agent/token",
        "give itself a right": f"PATCH {RBAC}/clusterroles/ksm-operator-controller",
        "take a role": f"POST {RBAC}/clusterrolebindings",
        "loosen its admission policies": f"PATCH {ADMITTED}policies/ksm-operator-controller-nodes",
        "delete its admission policies": f"DELETE {ADMITTED}policies/ksm-operator-agent",
        "unbind its admission policies": f"DELETE {ADMITTED}policybindings/ksm-operator-agent",
        "change a kind": f"PATCH {CRDS}/ksmnodes.ksm-operator.dev",
        "delete a kind": f"DELETE {CRDS}/ksmpolicies.ksm-operator.dev",
        "take another Lease": f"PUT {LEASES}/x",
        "delete its Lease": f"DELETE {LEASES}/ksm-operator-controller",
        "post an Event elsewhere": f"POST {INSIDE}/events",
        "rewrite an Event": "PATCH /api/v1/namespaces/default/events/x",
    },
    "uninstall": {
        "read a Secret": f"GET {INSIDE}/secrets/x",
        "delete a Node": "DELETE /api/v1/nodes/x",
        "speak for an agent": f"PATCH {KSM}/ksmnodes/x/status",
        "delete a policy": f"DELETE {KSM}/ksmpolicies/x",
        "apply the agents' DaemonSet": f"APPLY {APPS}/ksm-operator/daemonsets/ksm-operator-agent",
        "delete a kind": f"DELETE {CRDS}/ksmpolicies.ksm-operator.dev",
        "take another Lease": f"PUT {LEASES}/x",
    },
}


@pytest.mark.parametrize(
    ("part", "what"), [(part, what) for part in PARTS for what in SENSITIVE[part]]
)
def test_no_account_has_a_right_that_would_matter(
    speakers: dict[str, Account], part: str, what: str
) -> None:
    """Written down by hand, so that a chart that gives one of these does not pass unnoticed."""
    method, _, path = SENSITIVE[part][what].partition(" ")
    answer = speakers[part].ask(Try(method, path, None if method == "GET" else {}))
    assert answer.code == 403, answer
    assert f'User "system:serviceaccount:{NAMESPACE}:ksm-operator-{part}" cannot' in answer.message


@pytest.mark.parametrize("part", PARTS)
def test_the_api_server_refuses_all_but_what_the_chart_says(
    kubectl: Kubectl, speakers: dict[str, Account], objects: list[dict[str, Any]], part: str
) -> None:
    """A right may come from where nobody looks: every verb on every resource is tried."""
    given = rights(objects)[f"{RELEASE}-{part}"]
    tried = 0
    with accounts.service_account(kubectl, "default") as anybody:
        for request, how in _everything(given):
            tried += 1
            is_given = any(right.covers(request) for right in given)
            is_refused = speakers[part].ask(how).code == 403
            assert not (is_given and is_refused), f"refused: {request}"
            # What everybody may do is Kubernetes' to say.
            assert is_given or is_refused or anybody.ask(how).code != 403, f"let through: {request}"
    assert tried > 500


def _everything(given: Iterable[Right]) -> Iterator[tuple[Request, Try]]:
    """Every request that the API server knows, about an object that is not there or is named."""
    with accounts.administrator() as asked:
        groups = [
            (group["name"], f"/apis/{group['preferredVersion']['groupVersion']}")
            for group in asked.ask(Try("GET", "/apis")).body["groups"]
        ]
        kinds = [
            (group, prefix, kind)
            for group, prefix in (("", "/api/v1"), *groups)
            for kind in asked.ask(Try("GET", prefix)).body["resources"]
        ]
    for group, prefix, kind in kinds:
        resource, inside = kind["name"], kind["namespaced"]
        names = sorted({one.name for one in given if one.resource == resource} | {SOME_NAME})
        for verb in kind["verbs"]:
            of_all = verb in WITHOUT_NAME and "/" not in resource
            everywhere = ("",) if verb in ("list", "watch") or not inside else ()
            for space in (*everywhere, *((NAMESPACE, "default") if inside else ())):
                for name in ("",) if of_all else filter(None, names):
                    request = Request(verb, group, resource, space, name)
                    yield request, _as_http(request, prefix)


def _as_http(request: Request, prefix: str) -> Try:
    resource, _, part = request.resource.partition("/")
    inside = f"namespaces/{request.namespace}" if request.namespace else ""
    path = "/".join(filter(None, (prefix, inside, resource, request.name, part)))
    if request.verb == "watch":
        # From a version that is none, so that it ends at once where it is allowed.
        path += "?watch=true&resourceVersion=none"
    method = METHODS[request.verb]
    return Try(method, path, {} if method in ("POST", "PUT", "PATCH") else None)
