"""One test's part of the cluster: its namespaces, pods and policies, and putting them away."""

import secrets
from types import TracebackType
from typing import Any, Self

from cluster import diagnosis, operator_release
from cluster.command import Kubectl, condition, wait_until
from cluster.operator_release import AGENT_LABEL, AGENT_SELECTOR, NAMESPACE, OF_TESTS
from cluster.pods import Process, pod, wait_for_pods
from support import kernel

DOMAIN = "ksm-domain"
"""Label of the namespaces that a stage's policy selects."""


class Stage:
    """What one test made; a context that puts everything away and checks the node is as before.

    Attributes:
        kubectl: the cluster.
        node: the name of its node.
        name: part of every name here, unlike any other stage's.
        settings: the values under /sys/kernel/mm/ksm before.
    """

    def __init__(self, kubectl: Kubectl, node: str) -> None:
        self.kubectl = kubectl
        self.node = node
        self.name = f"t{secrets.token_hex(3)}"
        self.settings = kernel.settings()
        self._namespaces: list[str] = []
        self._policies: list[str] = []

    def __enter__(self) -> Self:
        # While pages count as shared, of whomever, the kernel refuses some of what a policy sets.
        kernel.forget_the_dead()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.delete_policies()
            self.wait_until_free()
            assert kernel.settings() == self.settings, "/sys/kernel/mm/ksm is not as before"
        except BaseException:
            # An agent that is forced away takes with it what it could tell.
            for title, text in diagnosis.sections(self.kubectl):
                print(f"--- {title}\n{text}")
            # The next test shall judge the operator, not the ruins of this one.
            operator_release.force_away_policies(self.kubectl)
            operator_release.force_away_namespaces(self.kubectl)
            operator_release.force_away_nodes(self.kubectl)
            kernel.restore(self.settings)
            raise
        finally:
            if self._namespaces:
                self.kubectl("delete", "namespace", *self._namespaces, "--wait=false")

    def namespace(self, suffix: str = "web", labels: dict[str, str] | None = None) -> str:
        """Make a namespace; without labels it is one that the stage's policies select."""
        name = f"{self.name}-{suffix}"
        chosen = {DOMAIN: self.name} if labels is None else labels
        metadata = {"name": name, "labels": {OF_TESTS: "true", **chosen}}
        self.kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        self._namespaces.append(name)
        account = ("serviceaccount", "default", "-n", name)
        wait_until(lambda: self.kubectl.find(*account), 30, f"pods can be made in {name}")
        return name

    def pods(
        self,
        namespace: str,
        count: int = 2,
        *,
        prefix: str = "pod",
        labels: dict[str, str] | None = None,
    ) -> list[Process]:
        """Start pods that hold memory, and return the processes of all pods of the namespace."""
        before = len(self.kubectl.items("pods", "-n", namespace))
        self.kubectl.apply(
            *(pod(f"{prefix}-{number}", namespace, labels) for number in range(count))
        )
        return wait_for_pods(self.kubectl, namespace, before + count)

    def policy(self, suffix: str = "", **spec: Any) -> str:
        """Apply a policy for the stage's namespaces; spec's fields replace those given here."""
        name = f"{self.name}{suffix}"
        whole = {
            "namespaceSelector": {"matchLabels": {DOMAIN: self.name}},
            "ksmd": {"cpuLimit": "500m"},
            **spec,
        }
        if "namespaces" in spec:
            del whole["namespaceSelector"]
        if name not in self._policies:
            self._policies.append(name)
        self.kubectl.apply(
            {
                "apiVersion": "ksm-operator.dev/v1alpha1",
                "kind": "KSMPolicy",
                "metadata": {"name": name, "labels": {OF_TESTS: "true"}},
                "spec": whole,
            }
        )
        return name

    def edit(self, policy: str, **spec: Any) -> None:
        """Change fields of a policy's spec."""
        self.kubectl.patch("ksmpolicy", policy, {"spec": spec})

    def wait_until_ready(self, policy: str, timeout: int = 60) -> None:
        """Wait as a person does, with kubectl."""
        self.kubectl(
            *("wait", "--for=condition=Ready", f"ksmpolicy/{policy}", f"--timeout={timeout}s"),
            timeout=timeout + 10,
        )

    def node_status(self) -> dict[str, Any]:
        """The status of the node's KSMNode, empty where there is none."""
        found = self.kubectl.find("ksmnode", self.node) or {}
        status: dict[str, Any] = found.get("status", {})
        return status

    def node_ready_reason(self) -> str:
        """Why the node's Ready is as it is."""
        found = self.kubectl.find("ksmnode", self.node)
        return str(condition(found, "Ready").get("reason", ""))

    def policy_condition(self, policy: str, kind: str) -> dict[str, Any]:
        """One condition of a policy."""
        return condition(self.kubectl.find("ksmpolicy", policy), kind)

    def delete_policies(self, timeout: int = 90) -> None:
        """Delete the stage's policies and wait until they are gone."""
        if self._policies:
            self.kubectl(
                *("delete", "ksmpolicy", *self._policies, "--ignore-not-found"),
                f"--timeout={timeout}s",
                timeout=timeout + 10,
            )

    def what_remains(self) -> list[str]:
        """What the operator still has on the node."""
        nodes = self.kubectl("get", "ksmnodes", "-o", "name").stdout.split()
        labelled = self.kubectl("get", "nodes", "-l", AGENT_LABEL, "-o", "name").stdout.split()
        agents = self.kubectl(
            "get", "pods", "-n", NAMESPACE, "-l", AGENT_SELECTOR, "-o", "name"
        ).stdout.split()
        return [*nodes, *labelled, *agents]

    def wait_until_free(self, timeout: float = 60) -> None:
        """Wait until no agent, no label and no KSMNode is left."""

        def free() -> bool:
            remains = self.what_remains()
            assert not remains, f"still there: {', '.join(remains)}"
            return True

        wait_until(free, timeout, "the node is free")
