"""What the controller keeps of the objects that it reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

from pydantic import ValidationError

from ksm_operator.api import (
    FINALIZER,
    Condition,
    KSMNodeSpec,
    KSMNodeStatus,
    KSMPolicySpec,
    QuantityError,
    milli_cpu,
    node_count,
)


@dataclass(frozen=True, slots=True)
class Policy:
    """A KSMPolicy. Without a spec: this controller cannot read it, and changes nothing for it."""

    name: str
    uid: str
    resource_version: str
    generation: int
    created: str
    deleted_at: datetime | None
    finalizers: tuple[str, ...]
    spec: KSMPolicySpec | None
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
    status: KSMNodeStatus

    def condition(self, kind: str) -> Condition | None:
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
    def enrolled_uid(self) -> str | None:
        """Return the uid of the policy whose processes are enrolled."""
        return self.status.owner.uid if self.status.owner else None

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
    return Policy(
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        generation=metadata["generation"],
        created=metadata["creationTimestamp"],
        deleted_at=timestamp(deleted) if deleted else None,
        finalizers=tuple(metadata.get("finalizers", ())),
        spec=spec,
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
    labels = metadata.get("labels", {})
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
    try:
        spec = KSMNodeSpec.model_validate(raw.get("spec", {}))
    except ValidationError:
        spec = None
    try:
        status = KSMNodeStatus.model_validate(raw.get("status", {}))
    except ValidationError:
        status = KSMNodeStatus()
    return NodeState(
        name=metadata["name"],
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        generation=metadata["generation"],
        deleting="deletionTimestamp" in metadata,
        node_uid=next((owner["uid"] for owner in owners if owner["kind"] == "Node"), ""),
        spec=spec,
        status=status,
    )


def namespace(raw: dict[str, Any]) -> Namespace:
    """Return what is needed of a Namespace."""
    metadata = raw["metadata"]
    return Namespace(metadata["name"], metadata["resourceVersion"], metadata.get("labels", {}))


def timestamp(text: str) -> datetime:
    """Return a time as the API server writes it, in UTC."""
    return datetime.fromisoformat(text)


def written(moment: datetime) -> str:
    """Return a time as the API server writes it, to the second."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
