"""What can be seen of the controller's work from outside: a watch of what it writes."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from ksm_operator.api import AGENT_LABEL

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.controller.client import Client

NODES: Final = "/api/v1/nodes"
KSM_NODES: Final = "/apis/ksm-operator.dev/v1alpha1/ksmnodes"
POLICIES: Final = "/apis/ksm-operator.dev/v1alpha1/ksmpolicies"
_POLL_SECONDS: Final = 0.1


class Condition(msgspec.Struct):
    """A condition."""

    type: str
    status: str
    reason: str = ""


class _Metadata(msgspec.Struct, rename="camel"):
    name: str
    generation: int = 0
    labels: dict[str, str] = {}
    deletion_timestamp: str = ""


class _Owner(msgspec.Struct):
    name: str
    generation: int


class _Spec(msgspec.Struct, rename="camel"):
    owner: _Owner | None = None
    desired_state: str = ""


class _Status(msgspec.Struct, rename="camel"):
    observed_generation: int = 0
    conditions: list[Condition] = []


class _Object(msgspec.Struct):
    metadata: _Metadata
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)


@dataclass(frozen=True, slots=True)
class Ready:
    """What a policy said when its `Ready` changed.

    Attributes:
        at: when it was seen, seconds since the epoch.
        policy: its name.
        status: True, False or Unknown.
        reason: the condition's.
    """

    at: float
    policy: str
    status: str
    reason: str


class Observer:
    """Nodes, KSMNodes and policies as a watch shows them.

    Attributes:
        labelled: nodes with the agent's label.
        owners: KSMNodes that are granted, with name and generation of the policy.
        agreed: KSMNodes whose agent says that it does what the present spec asks.
        states: every KSMNode.
        policies: of each policy, the generation that its status is about and its `Ready`.
        transitions: every change of a policy's `Ready`, the first word included.
    """

    def __init__(self, client: Client) -> None:
        self.labelled: set[str] = set()
        self.states: set[str] = set()
        self.owners: dict[str, tuple[str, int]] = {}
        self.agreed: set[str] = set()
        self.policies: dict[str, tuple[int, str]] = {}
        self.transitions: list[Ready] = []
        self._client = client
        self._decoder = msgspec.json.Decoder(_Object)
        for path, take in (
            (NODES, self._node),
            (KSM_NODES, self._state),
            (POLICIES, self._policy),
        ):
            threading.Thread(
                target=self._follow, args=(path, take), name=f"observe {path}", daemon=True
            ).start()

    def ready(self, *names: str) -> bool:
        """Whether these policies say that they are ready, of their present generation."""
        return all(self.policies.get(name, (0, ""))[1] == "True" for name in names)

    def _follow(self, path: str, take: Callable[[_Object, bool], None]) -> None:
        for kind, raw in self._client.follow(path):
            item = self._decoder.decode(raw)
            take(item, kind == "DELETED")

    def _node(self, item: _Object, gone: bool) -> None:  # noqa: FBT001 - of one shape with the others
        labelled = item.metadata.labels.get(AGENT_LABEL) == "true"
        _keep(self.labelled, item, labelled and not gone)

    def _state(self, item: _Object, gone: bool) -> None:  # noqa: FBT001 - of one shape with the others
        name = item.metadata.name
        _keep(self.states, item, not gone)
        owner, status = item.spec.owner, item.status
        if not gone and owner is not None and item.spec.desired_state != "Released":
            self.owners[name] = (owner.name, owner.generation)
        else:
            self.owners.pop(name, None)
        current = status.observed_generation == item.metadata.generation
        ready = any(one.type == "Ready" and one.status == "True" for one in status.conditions)
        _keep(self.agreed, item, ready and current and not gone)

    def _policy(self, item: _Object, gone: bool) -> None:  # noqa: FBT001 - of one shape with the others
        name = item.metadata.name
        if gone:
            self.policies.pop(name, None)
            return
        condition = next((one for one in item.status.conditions if one.type == "Ready"), None)
        if condition is None:
            return
        current = item.status.observed_generation == item.metadata.generation
        said = condition.status if current else "stale"
        before = self.policies.get(name, (0, ""))[1]
        self.policies[name] = (item.status.observed_generation, said)
        if current and said != before:
            self.transitions.append(Ready(time.time(), name, said, condition.reason))


def _keep(names: set[str], item: _Object, wanted: bool) -> None:  # noqa: FBT001 - reads as a row
    if wanted:
        names.add(item.metadata.name)
    else:
        names.discard(item.metadata.name)


def wait_until(true: Callable[[], bool], seconds: float, what: str) -> float:
    """Wait and return when it was true, in seconds since the epoch.

    Raises:
        TimeoutError: it took longer.
    """
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(_POLL_SECONDS)
    return time.time()
