"""One test's nodes, agents and policies on a control plane of its own, and who saw what of them."""

import json
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Final, Self

from cluster.agents import Agents
from cluster.api import KSM_NODES, KSM_POLICIES, NODES, ApiFailure, Follower
from cluster.api_proxy import ApiProxy
from cluster.command import condition, wait_until
from cluster.control_plane import ControlPlane
from cluster.controllers import LocalController, Nursery
from cluster.fleet import Fleet
from cluster.operator_release import AGENT_LABEL, OF_TESTS

SECONDS: Final = 60
"""Far more than anything takes that is waited for here."""
_REQUESTS_SHOWN: Final = 100


class World:
    """A context: it has agents on every node of the fleet, and leaves nothing but the nodes.

    Attributes:
        control_plane: etcd and the API server.
        api: the API server.
        agents: of all nodes.
    """

    def __init__(self, control_plane: ControlPlane, fleet: Fleet, nursery: Nursery) -> None:
        self.control_plane = control_plane
        self.api = api = control_plane.api
        self.agents = Agents(api, fleet.names)
        self._fleet = fleet
        self._nursery = nursery
        self._priority = 0
        self._prefix = f"p{secrets.token_hex(2)}"
        self._controllers: list[LocalController] = []
        self._ready: dict[str, list[str]] = {}
        self._follower = Follower(api, KSM_POLICIES, self._note)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self.agents)
        self._follower.start()
        self._stack.callback(self._follower.stop)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Controllers first: they would mend what is taken away.
        self._stack.__exit__(kind, error, trace)
        for item in self.api.items(KSM_POLICIES):
            path = f"{KSM_POLICIES}/{item['metadata']['name']}"
            self.api.merge(path, {"metadata": {"finalizers": None}})
            self.api.delete(path)
        self.api.delete(KSM_NODES)
        for item in self.api.items(f"{NODES}?labelSelector={AGENT_LABEL}"):
            path = f"{NODES}/{item['metadata']['name']}"
            self.api.merge(path, {"metadata": {"labels": {AGENT_LABEL: None}}})

    def controller(self, identity: str = "controller-0") -> LocalController:
        """A controller behind a proxy of its own, not started yet."""
        proxy = self._stack.enter_context(ApiProxy(self.api.server, self.api.authority))
        token, template = self.control_plane.token, self.control_plane.template
        controller = LocalController(self._nursery, proxy, token, template, identity)
        self._controllers.append(controller)
        return self._stack.enter_context(controller)

    def node(self, number: int) -> str:
        """The name of a node."""
        return self._fleet.name(number)

    def policy(self, name: str, *numbers: int, **spec: Any) -> str:
        """Create a policy for some nodes; spec's fields replace those given here."""
        self.api.create(KSM_POLICIES, self.manifest(name, *numbers, **spec))
        return self.uid(name)

    def manifest(self, name: str, *numbers: int, **spec: Any) -> dict[str, Any]:
        """A policy for some nodes."""
        names = [self.node(number) for number in numbers]
        hosts = {"key": "kubernetes.io/hostname", "operator": "In", "values": names}
        return {
            "apiVersion": "ksm-operator.dev/v1alpha1",
            "kind": "KSMPolicy",
            "metadata": {"name": self._full(name), "labels": {OF_TESTS: "true"}},
            "spec": {
                "namespaces": ["default"],
                "nodeSelector": {"matchExpressions": [hosts]},
                "rollout": {"maxConcurrentNodes": "100%"},
                **spec,
            },
        }

    def path(self, name: str) -> str:
        """Where a policy is."""
        return f"{KSM_POLICIES}/{self._full(name)}"

    def uid(self, name: str) -> str:
        """The uid of a policy."""
        return str(self.api.get(self.path(name))["metadata"]["uid"])

    def edit(self, name: str, **spec: Any) -> None:
        """Change fields of a policy's spec."""
        self.api.merge(self.path(name), {"spec": spec})

    def prefer(self, name: str) -> None:
        """Let a policy win every node that it selects, as a person does who changes his mind."""
        self._priority += 1
        self.edit(name, priority=self._priority)

    def delete(self, name: str) -> None:
        """Ask for a policy's deletion."""
        self.api.delete(self.path(name))

    def condition(self, name: str, kind: str) -> dict[str, Any]:
        """A condition of a policy, empty where there is none."""
        return condition(self.api.find(self.path(name)), kind)

    def ksm_node(self, number: int) -> dict[str, Any] | None:
        """A node's KSMNode."""
        return self.api.find(f"{KSM_NODES}/{self.node(number)}")

    def spec(self, number: int) -> dict[str, Any]:
        """What a node's KSMNode asks, empty where there is none."""
        spec: dict[str, Any] = (self.ksm_node(number) or {}).get("spec", {})
        return spec

    def story(self, number: int) -> list[str]:
        """What became of a node, as its agent tells it."""
        return list(self.agents.stories[self.node(number)])

    def wait_until_settled(self, name: str, *numbers: int) -> None:
        """Wait until a policy has these nodes, their agents obey, and it says that it is Ready.

        Controllers are started again meanwhile, as the kubelet does, but only after the one end
        that a controller may come to by itself: it could not renew the Lease in time.
        """
        uid = self.uid(name)

        def settled() -> bool:
            for controller in self._controllers:
                controller.start_again_after_a_lost_lease()
            return self._settled(name, uid, numbers)

        wait_until(settled, SECONDS, f"{name} has nodes {numbers}")

    def is_settled(self, name: str, *numbers: int) -> bool:
        """Whether it is so now."""
        try:
            return self._settled(name, self.uid(name), numbers)
        except (AssertionError, LookupError):
            return False

    def _settled(self, name: str, uid: str, numbers: tuple[int, ...]) -> bool:
        for number in numbers:
            spec = self.spec(number)
            assert spec.get("owner", {}).get("uid") == uid, f"{self.node(number)}: {spec}"
            assert spec["desiredState"] == "Merging"
            assert self.agents.enrolled(self.node(number)) == uid
        found = self.api.get(self.path(name))
        ready = condition(found, "Ready")
        assert ready["status"] == "True", ready
        assert ready["observedGeneration"] == found["metadata"]["generation"]
        assert found["status"]["nodes"]["ready"] == len(numbers), found["status"]["nodes"]
        return not condition(found, "Reconciling")

    def exists(self, *names: str) -> bool:
        """Whether any of some policies is there."""
        return any(self.api.find(self.path(name)) for name in names)

    def is_clean(self, *numbers: int) -> bool:
        """Whether nodes have neither KSMNode nor label nor anybody enrolled."""
        return not any(
            self.ksm_node(number)
            or self.agents.enrolled(self.node(number))
            or AGENT_LABEL in self.api.get(f"{NODES}/{self.node(number)}")["metadata"]["labels"]
            for number in numbers
        )

    def assert_never_wrong(self, *uninvolved: str) -> None:
        """Nothing was asked of a node that it must not do, and who had no part noticed nothing."""
        assert not self.agents.wrong
        for name in uninvolved:
            history = self._ready[self._full(name)]
            after = history[history.index("True") :]
            assert set(after) == {"True"}, f"Ready of {name}: {history}"

    def _full(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def _note(self, policy: dict[str, Any]) -> None:
        history = self._ready.setdefault(policy["metadata"]["name"], [])
        status = condition(policy, "Ready").get("status", "")
        if status and history[-1:] != [status]:
            history.append(status)

    def sections(self) -> Iterator[tuple[str, str]]:
        """What a person wants to see of a failure, each with a title."""
        for controller in self._controllers:
            yield controller.identity, controller.log
            requests = "\n".join(map(str, controller.proxy.done[-_REQUESTS_SHOWN:]))
            yield f"last requests of {controller.identity}", requests
        yield "nodes", "\n".join([*self.agents.wrong, *map(str, self.agents.stories.items())])
        yield "Ready", "\n".join(map(str, self._ready.items()))
        try:
            items = [*self.api.items(KSM_POLICIES), *self.api.items(KSM_NODES)]
        except ApiFailure as failure:
            yield "objects", str(failure)
        else:
            yield "objects", json.dumps(items, indent=1)
