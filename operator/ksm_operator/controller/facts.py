"""What the controller keeps of the objects that it reads."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache, partial
from sys import intern
from typing import Any, Final

from pydantic import ValidationError

from ksm_operator.api import (
    FINALIZER,
    KSMNodeSpec,
    KSMPolicySpec,
    NodePolicy,
    Owner,
    QuantityError,
    milli_cpu,
    node_count,
)
from ksm_operator.controller.orders import order_of
from ksm_operator.controller.reported import Judged, Reported, reported

_SHARED: Final = 1024


@dataclass(frozen=True, slots=True)
class Policy:
    """A KSMPolicy. Without a spec: this controller cannot read it, and changes nothing for it.

    Its order is what each of its nodes is told, but for the time since when.
    """

    name: str
    uid: str
    resource_version: str
    generation: int
    created: str
    deleted_at: datetime | None
    finalizers: tuple[str, ...]
    spec: KSMPolicySpec | None
    order: KSMNodeSpec | None
    unreadable: str = ""
    status: Mapping[str, Any] = field(default_factory=dict)

    @property
    def holds_deletion(self) -> bool:
        """Tell whether our finalizer is on it."""
        return FINALIZER in self.finalizers


@dataclass(frozen=True, slots=True)
class Node:
    """A Node. `ready_since` is when it last became Ready, None where it is not or does not say."""

    name: str
    uid: str
    resource_version: str
    created: datetime
    deleting: bool
    labels: Mapping[str, str]
    operating_system: str
    architecture: str
    virtual: bool
    ready: bool
    ready_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class NodeState:
    """A KSMNode. Without a spec: a newer controller wrote it; change nothing."""

    name: str
    uid: str
    resource_version: str
    generation: int
    deleting: bool
    node_uid: str
    spec: KSMNodeSpec | None
    status: Reported

    def condition(self, kind: str) -> Judged | None:
        """Return a condition that the agent judged on the present spec, if there is one."""
        for condition in self.status.conditions:
            if condition.type == kind and condition.observed_generation == self.generation:
                return condition
        return None

    @property
    def owner_uid(self) -> str | None:
        """Return the uid of the policy that the spec names."""
        return self.spec.owner.uid if self.spec and self.spec.owner else None

    @property
    def asked_to_release(self) -> bool:
        """Tell whether the spec says `Released`."""
        return self.spec is not None and self.spec.desired_state == "Released"

    @property
    def observing_uid(self) -> str | None:
        """Return the uid of the policy for which the node observes, with nobody enrolled."""
        observes = self.spec is not None and self.spec.desired_state == "Observing"
        return self.owner_uid if observes and self.enrolled_uid is None else None

    @property
    def enrolled_uid(self) -> str | None:
        """Return the uid of the policy whose processes are enrolled."""
        return self.status.owner_uid

    @property
    def released(self) -> bool:
        """Tell whether the agent confirmed that everything was given back.

        The one proof that a node is free: it was asked to release, it saw exactly that, and
        nobody's processes are enrolled.
        """
        condition = self.condition("Released")
        return (
            self.asked_to_release
            and self.status.observed_generation == self.generation
            and self.enrolled_uid is None
            and condition is not None
            and condition.status == "True"
        )


@dataclass(frozen=True, slots=True)
class Namespace:
    """A Namespace."""

    name: str
    resource_version: str
    labels: Mapping[str, str]


def policy(raw: dict[str, Any]) -> Policy:
    """Return what is needed of a KSMPolicy."""
    metadata = raw["metadata"]
    deleted = metadata.get("deletionTimestamp")
    spec, unreadable = _policy_spec(raw.get("spec"))
    owner = Owner(name=metadata["name"], uid=metadata["uid"], generation=metadata["generation"])
    return Policy(
        name=owner.name,
        uid=owner.uid,
        resource_version=metadata["resourceVersion"],
        generation=owner.generation,
        created=metadata["creationTimestamp"],
        deleted_at=timestamp(deleted) if deleted else None,
        finalizers=tuple(metadata.get("finalizers", ())),
        spec=spec,
        order=order_of(owner, spec) if spec is not None else None,
        unreadable=unreadable,
        status=raw.get("status", {}),
    )


def _policy_spec(raw: Any) -> tuple[KSMPolicySpec | None, str]:
    try:
        spec = KSMPolicySpec.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return None, f"spec.{where}: {first['msg']}"
    for where, read in (
        ("ksmd.cpuLimit", partial(milli_cpu, spec.ksmd.cpu_limit)),
        ("rollout.maxConcurrentNodes", partial(node_count, spec.rollout.max_concurrent_nodes, 1)),
    ):
        try:
            read()
        except QuantityError as error:
            return None, f"spec.{where}: {error}"
    return spec, ""


def node(raw: dict[str, Any]) -> Node:
    """Return what is needed of a Node."""
    metadata, status = raw["metadata"], raw.get("status", {})
    labels = _interned(metadata.get("labels", {}))
    info = status.get("nodeInfo", {})
    taints = raw.get("spec", {}).get("taints", ())
    conditions = {item["type"]: item for item in status.get("conditions", ())}
    ready = conditions.get("Ready", {})
    is_ready = ready.get("status") == "True"
    since = ready.get("lastTransitionTime")
    return Node(
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        created=timestamp(metadata["creationTimestamp"]),
        deleting="deletionTimestamp" in metadata,
        labels=labels,
        operating_system=labels.get("kubernetes.io/os") or info.get("operatingSystem", ""),
        architecture=labels.get("kubernetes.io/arch") or info.get("architecture", ""),
        virtual=labels.get("type") == "virtual-kubelet"
        or any(taint["key"] == "virtual-kubelet.io/provider" for taint in taints)
        or labels.get("eks.amazonaws.com/compute-type") == "fargate",
        ready=is_ready,
        ready_since=timestamp(since) if is_ready and since else None,
    )


def node_state(raw: dict[str, Any]) -> NodeState:
    """Return what is needed of a KSMNode."""
    metadata = raw["metadata"]
    owners = metadata.get("ownerReferences", ())
    return NodeState(
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        generation=metadata["generation"],
        deleting="deletionTimestamp" in metadata,
        node_uid=next((owner["uid"] for owner in owners if owner["kind"] == "Node"), ""),
        spec=_node_spec(raw.get("spec", {})),
        status=reported(raw.get("status", {})),
    )


def _node_spec(raw: dict[str, Any]) -> KSMNodeSpec | None:
    asked = raw.get("policy")
    try:
        if asked is not None:
            raw = {**raw, "policy": _node_policy(json.dumps(asked))}
        return KSMNodeSpec.model_validate(raw)
    except ValidationError:
        return None


@lru_cache(maxsize=_SHARED)
def _node_policy(text: str) -> NodePolicy:
    """Return the part of a policy that its nodes get: all of them the same, so it is kept once."""
    return NodePolicy.model_validate_json(text)


def namespace(raw: dict[str, Any]) -> Namespace:
    """Return what is needed of a Namespace."""
    metadata = raw["metadata"]
    labels = _interned(metadata.get("labels", {}))
    return Namespace(metadata["name"], metadata["resourceVersion"], labels)


def _interned(labels: Mapping[str, str]) -> dict[str, str]:
    """Return labels whose words are kept once: thousands of objects have the same ones."""
    return {intern(key): intern(value) for key, value in labels.items()}


def timestamp(text: str) -> datetime:
    """Return a time as the API server writes it, in UTC."""
    return datetime.fromisoformat(text)


def written(moment: datetime) -> str:
    """Return a time as the API server writes it, to the second."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
