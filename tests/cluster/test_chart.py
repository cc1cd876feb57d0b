"""What the chart renders and what it refuses, by `helm template`."""

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from cluster.command import Command

if TYPE_CHECKING:
    from subprocess import CompletedProcess

pytestmark = pytest.mark.cluster

CHART: Final = "helm/ksm-operator"
DIGEST: Final = "sha256:" + "a" * 64

Objects = list[dict[str, Any]]
Render = Callable[..., Objects]


@pytest.fixture
def render(helm: Command) -> Render:
    """The chart's objects for values written as for `--set`."""

    def rendered(*values: str, release: str = "ksm-operator", kubernetes: str = "") -> Objects:
        text = _template(helm, *values, release=release, kubernetes=kubernetes).stdout
        return [found for found in yaml.safe_load_all(text) if found]

    return rendered


@pytest.fixture
def refusal(helm: Command) -> Callable[..., str]:
    """What helm says to values that the chart does not take."""

    def refused(*values: str) -> str:
        done = _template(helm, *values, check=False)
        assert done.returncode != 0, f"the chart takes {values}"
        return done.stderr

    return refused


def _template(
    helm: Command,
    *values: str,
    release: str = "ksm-operator",
    kubernetes: str = "",
    check: bool = True,
) -> "CompletedProcess[str]":
    sets = [f"--set={value}" for value in ("image.repository=example.com/ksm-operator", *values)]
    version = [f"--kube-version={kubernetes}"] if kubernetes else []
    arguments = (release, CHART, "--namespace=ksm-operator", *sets, *version)
    return helm("template", *arguments, check=check)


def _of(objects: Objects, kind: str, name: str = "") -> Objects:
    return [
        found
        for found in objects
        if found["kind"] == kind and name in ("", found["metadata"]["name"])
    ]


def _agent(objects: Objects, release: str = "ksm-operator") -> dict[str, Any]:
    [config] = _of(objects, "ConfigMap", f"{release}-agent")
    daemonset: dict[str, Any] = yaml.safe_load(config["data"]["daemonset.yaml"])
    return daemonset


def _pod_templates(objects: Objects) -> list[dict[str, Any]]:
    """Pod specs of everything that runs ksm-controller."""
    templates = [found["spec"]["template"]["spec"] for found in _of(objects, "Deployment")]
    templates += [found["spec"]["template"]["spec"] for found in _of(objects, "Job")]
    return templates + [found["spec"] for found in _of(objects, "Pod")]


def test_lint_is_clean(helm: Command) -> None:
    """Helm's own opinion of the chart, warnings included."""
    helm("lint", "--strict", CHART, "--set=image.repository=example.com/ksm-operator")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("image.digest=sha256:abc", "does not match pattern"),
        ("image.repository=example.com/ksm:1", "does not match pattern"),
        ("image.pullPolicy=Sometimes", "must be one of"),
        ("logLevel=loud", "must be one of"),
        ("crds.instal=true", "additional properties 'instal' not allowed"),
        ("agents.resources.limits.memory=1Gi", "additional properties 'agents' not allowed"),
        ("agent.nodeSelector.zone=a", "additional properties 'nodeSelector' not allowed"),
        ("agent.resources.requests.memory=lots", "does not match pattern"),
        ("agent.updateStrategy.rollingUpdate.maxUnavailable=0", "got 0, want 1"),
        ("agent.priorityClassName=", "minLength"),
        ("agent.resources.limits.cpu=1", "hold the processes that it enrols stopped"),
        ("image.repository=", "write where your cluster pulls the image"),
        ("metrics.authentication=maybe", "got string, want boolean"),
        ("networkPolicy.scraperNamespaces={A_B}", "does not match pattern"),
    ],
)
def test_nonsense_is_refused_in_words(refusal: Callable[..., str], value: str, words: str) -> None:
    """A typo in a values file must not become an installation that ignores it."""
    said = refusal(value)
    assert words in said
    path = value.partition("=")[0].split(".")
    assert all(part in said for part in path[:1])


def test_old_kubernetes_is_refused(helm: Command) -> None:
    """Without the node's name in tokens (1.32) agents could write for each other."""
    said = _template(helm, kubernetes="v1.31.9", check=False).stderr
    assert "requires kubeVersion: >=1.32.0-0" in said


def test_rbac_has_no_wildcard(render: Render) -> None:
    """Least power: every right is written out, or a reader cannot judge it."""
    roles = _of(render("openshift.enabled=true"), "ClusterRole")
    roles += _of(render(), "Role")
    assert len(roles) >= 5
    for role in roles:
        for rule in role["rules"]:
            words = [word for kind, words in rule.items() if kind != "verbs" for word in words]
            assert "*" not in "".join(words + rule["verbs"]), role
            assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])


def test_agent_is_what_its_work_needs(render: Render) -> None:
    """An agent without one of these cannot enrol, or harms what it enrols."""
    spec = _agent(render())["spec"]["template"]["spec"]
    [container] = spec["containers"]
    assert spec["hostPID"] is True
    assert not spec.get("hostNetwork")
    assert spec["priorityClassName"] == "system-node-critical"
    assert spec["tolerations"] == [{"operator": "Exists"}]
    assert spec["nodeSelector"] == {
        "kubernetes.io/os": "linux",
        "ksm-operator.node-restriction.kubernetes.io/agent": "true",
    }
    security = container["securityContext"]
    assert security["privileged"] is True
    assert security["seccompProfile"]["type"] == "Unconfined"
    assert security["appArmorProfile"]["type"] == "Unconfined"
    assert container["resources"] == {"requests": {"cpu": "10m", "memory": "48Mi"}}
    assert spec["volumes"] == [
        {
            "name": "state",
            "hostPath": {"path": "/run/ksm-operator", "type": "DirectoryOrCreate"},
        }
    ]


def test_agents_are_not_restarted_by_the_chart_alone(render: Render) -> None:
    """A label that names the chart's version would roll every agent of the cluster for nothing."""
    labels = _agent(render())["spec"]["template"]["metadata"]["labels"]
    assert not {"helm.sh/chart", "app.kubernetes.io/version"} & set(labels)


def test_agents_template_has_no_owner(render: Render) -> None:
    """The controller adds it; Helm does not know the Deployment's uid."""
    assert "ownerReferences" not in _agent(render())["metadata"]


def test_everything_but_the_agent_is_restricted(render: Render) -> None:
    """Only the agent needs power; the rest passes Pod Security's strictest level."""
    templates = _pod_templates(render())
    assert len(templates) == 3
    for spec in templates:
        [container] = spec["containers"]
        assert spec["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@pytest.mark.parametrize(
    ("values", "image"),
    [
        ((), "example.com/ksm-operator:0.1.0"),
        (("image.tag=dev",), "example.com/ksm-operator:dev"),
        (("image.tag=dev", f"image.digest={DIGEST}"), f"example.com/ksm-operator@{DIGEST}"),
    ],
)
def test_digest_wins_over_tag_everywhere(
    render: Render, values: tuple[str, ...], image: str
) -> None:
    """One image for all, and the admission policy must pin the very same."""
    objects = render(*values)
    specs = [*_pod_templates(objects), _agent(objects)["spec"]["template"]["spec"]]
    assert [spec["containers"][0]["image"] for spec in specs] == [image] * 4
    [policy] = _of(objects, "ValidatingAdmissionPolicy", "ksm-operator-controller-daemonset")
    expressions = " ".join(rule["expression"] for rule in policy["spec"]["validations"])
    assert f"c.image == '{image}'" in expressions


def test_crds_are_kept_and_can_be_left_out(render: Render) -> None:
    """An uninstall must not delete the users' policies, and some clusters manage CRDs apart."""
    crds = _of(render(), "CustomResourceDefinition")
    assert {crd["metadata"]["annotations"]["helm.sh/resource-policy"] for crd in crds} == {"keep"}
    assert len(crds) == 2
    assert not _of(render("crds.install=false"), "CustomResourceDefinition")


def test_every_name_carries_the_releases(render: Render) -> None:
    """The controller, RBAC and admission policies find each other by these names."""
    for found in render("openshift.enabled=true", "resourceQuota.create=true", release="demo"):
        name = found["metadata"]["name"]
        assert name.startswith("demo-ksm-operator") or found["kind"] == "CustomResourceDefinition"


def test_admission_policies_name_the_accounts(render: Render) -> None:
    """A policy that matches another account's name protects nothing."""
    objects = render(release="demo")
    names = {
        found["metadata"]["name"].removeprefix("demo-ksm-operator-"): found["spec"]
        for found in _of(objects, "ValidatingAdmissionPolicy")
    }
    users = {
        name: set(re.findall(r"system:serviceaccount:[-:a-z]+", str(spec["matchConditions"])))
        for name, spec in names.items()
    }
    accounts = {
        name: f"system:serviceaccount:ksm-operator:demo-ksm-operator-{name}"
        for name in ("agent", "controller", "uninstall")
    }
    both = {accounts["controller"], accounts["uninstall"]}
    kinds = ("nodes", "daemonset", "policies", "lease")
    assert users == {"agent": {accounts["agent"]}, **{f"controller-{kind}": both for kind in kinds}}
    found = _of(objects, "ServiceAccount")
    assert {one["metadata"]["name"] for one in found} == {
        user.rpartition(":")[2] for user in accounts.values()
    }
    for name, spec in names.items():
        policy = f"demo-ksm-operator-{name}"
        [binding] = _of(objects, "ValidatingAdmissionPolicyBinding", policy)
        assert binding["spec"] == {"policyName": policy, "validationActions": ["Deny"]}
        assert spec["failurePolicy"] == "Fail"


def test_agents_labels_and_annotations_are_those_that_are_admitted(render: Render) -> None:
    """The controller's apply would be refused for ever if the two lists differed."""
    objects = render("agent.podLabels.team=a", r'agent.podAnnotations.a\.b/c=say "<so>"')
    [policy] = _of(objects, "ValidatingAdmissionPolicy", "ksm-operator-controller-daemonset")
    variables = {one["name"]: one["expression"] for one in policy["spec"]["variables"]}
    metadata = _agent(objects)["spec"]["template"]["metadata"]
    assert json.loads(variables["labels"]) == metadata["labels"]
    assert json.loads(variables["annotations"]) == metadata["annotations"]


def test_controller_restarts_when_the_agents_template_changes(render: Render) -> None:
    """A changed value of the agent reaches the nodes at once, not at the kubelet's leisure."""
    key = "checksum/agent-template"
    sums = {
        _of(render(value), "Deployment")[0]["spec"]["template"]["metadata"]["annotations"][key]
        for value in ("logLevel=info", "agent.podLabels.team=a", "agent.seLinuxType=spc_t")
    }
    assert len(sums) == 3


def test_quota_comes_by_itself_on_gke(render: Render) -> None:
    """There system-node-critical pods are refused without one, so agents would never start."""
    assert not _of(render(), "ResourceQuota")
    assert _of(render("resourceQuota.create=true"), "ResourceQuota")
    assert _of(render(kubernetes="v1.34.1-gke.100"), "ResourceQuota")


def test_openshift_binds_each_account_to_its_constraint(render: Render) -> None:
    """The agent needs `privileged`; the controller's fixed user id needs `nonroot-v2`."""
    bindings = _of(render("openshift.enabled=true"), "RoleBinding")
    bound = {
        (binding["roleRef"]["name"], subject["name"])
        for binding in bindings
        for subject in binding["subjects"]
        if "scc" in binding["roleRef"]["name"]
    }
    assert bound == {
        ("system:openshift:scc:privileged", "ksm-operator-agent"),
        ("system:openshift:scc:nonroot-v2", "ksm-operator-controller"),
        ("system:openshift:scc:nonroot-v2", "ksm-operator-uninstall"),
    }


def test_metrics_are_guarded_unless_said_otherwise(render: Render) -> None:
    """What is saved is a side channel; and without the question nobody needs the right to ask."""
    review = {"tokenreviews", "subjectaccessreviews"}
    for values, guarded in (((), True), (("metrics.authentication=false",), False)):
        objects = render(*values)
        for part in ("agent", "controller"):
            [role] = _of(objects, "ClusterRole", f"ksm-operator-{part}")
            asks = [rule for rule in role["rules"] if review & set(rule["resources"])]
            assert [rule["verbs"] for rule in asks] == [["create"]] * 2 * guarded
        [agent] = _agent(objects)["spec"]["template"]["spec"]["containers"]
        [deployment] = _of(objects, "Deployment")
        [controller] = deployment["spec"]["template"]["spec"]["containers"]
        for container in (agent, controller):
            assert ("--open-metrics" in container["args"]) is not guarded
        readers = _of(objects, "ClusterRole", "ksm-operator-metrics-reader")
        assert [role["rules"] for role in readers] == [
            [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]
        ] * guarded


def test_the_admitted_arguments_follow_the_values(render: Render) -> None:
    """An agent with other arguments than those that are pinned would never be applied."""
    objects = render("metrics.authentication=false", "metrics.perContainer=true")
    [container] = _agent(objects)["spec"]["template"]["spec"]["containers"]
    assert container["args"][-2:] == ["--open-metrics", "--container-metrics"]
    [policy] = _of(objects, "ValidatingAdmissionPolicy", "ksm-operator-controller-daemonset")
    pinned = json.dumps(container["args"], separators=(",", ":"))
    assert any(pinned in rule["expression"] for rule in policy["spec"]["validations"])


def test_network_policy_names_who_may_scrape(render: Render) -> None:
    """It has to find the pods by the labels that they have, and the port by its name."""
    assert not _of(render(), "NetworkPolicy")
    [closed] = _of(render("networkPolicy.enabled=true"), "NetworkPolicy")
    assert closed["spec"]["ingress"] == []
    assert closed["spec"]["policyTypes"] == ["Ingress"]
    objects = render("networkPolicy.enabled=true", "networkPolicy.scraperNamespaces={a,b}")
    [policy] = _of(objects, "NetworkPolicy")
    selector = policy["spec"]["podSelector"]
    [parts] = selector["matchExpressions"]
    [deployment] = _of(objects, "Deployment")
    for part, pods in (("agent", _agent(objects)), ("controller", deployment)):
        template = pods["spec"]["template"]
        labels = template["metadata"]["labels"]
        assert selector["matchLabels"].items() <= labels.items()
        assert labels[parts["key"]] == part
        assert part in parts["values"]
        assert [port["name"] for port in template["spec"]["containers"][0]["ports"]] == ["http"]
    [rule] = policy["spec"]["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": "http"}]
    [peer] = rule["from"]
    [named] = peer["namespaceSelector"]["matchExpressions"]
    assert named["values"] == ["a", "b"]


def test_uninstall_ends_before_helm_gives_up(render: Render) -> None:
    """Helm waits five minutes; the job must say what it could not finish before that."""
    [job] = _of(render(), "Job")
    arguments = job["spec"]["template"]["spec"]["containers"][0]["args"]
    timeout = int(arguments[arguments.index("--timeout") + 1])
    assert timeout < job["spec"]["activeDeadlineSeconds"] < 300
    assert job["spec"]["backoffLimit"] == 0
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-delete"


def test_uninstalls_rights_exist_only_then(render: Render) -> None:
    """An account that may release everything has no place in a running installation."""
    mine = [found for found in render() if found["metadata"]["name"] == "ksm-operator-uninstall"]
    kinds = {found["kind"] for found in mine}
    assert {"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Job"} <= kinds
    for found in mine:
        annotations = found["metadata"]["annotations"]
        assert annotations["helm.sh/hook"] == "pre-delete"
        assert "hook-succeeded" in annotations["helm.sh/hook-delete-policy"]
