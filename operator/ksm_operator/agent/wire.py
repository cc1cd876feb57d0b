"""What the agent reads from and writes to the API server, decoded lean.

The same objects as the pydantic models of the API package, which the agent does not import: it
would double what the agent keeps in memory. A round-trip test holds the two together. Unknown
fields are ignored, and enumerations are plain strings, so that an older agent can read what a
newer controller wrote and then decide to change nothing.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Wire(msgspec.Struct, rename="camel", frozen=True, kw_only=True):
    """A part of an object: camelCase outside, immutable."""


class SelectorRequirement(Wire, frozen=True):
    """One set-based requirement on a label."""

    key: str
    operator: str
    values: tuple[str, ...] | None = None

    def admits(self, labels: dict[str, str]) -> bool:
        """Tell whether labels meet this requirement, as the API server would."""
        values = self.values or ()
        match self.operator:
            case "In":
                return labels.get(self.key) in values
            case "NotIn":
                return labels.get(self.key) not in values
            case "Exists":
                return self.key in labels
            case "DoesNotExist":
                return self.key not in labels
            case _:
                return False  # never judged: `unknown_terms` names it first


class LabelSelector(Wire, frozen=True):
    """A Kubernetes label selector: all of its requirements must hold."""

    match_labels: dict[str, str] | None = None
    match_expressions: tuple[SelectorRequirement, ...] | None = None

    @property
    def empty(self) -> bool:
        """Tell whether the selector has no requirement and so selects everything."""
        return not self.match_labels and not self.match_expressions

    def admits(self, labels: dict[str, str]) -> bool:
        """Tell whether labels meet every requirement, as the API server would."""
        wanted = (self.match_labels or {}).items()
        return all(labels.get(key) == value for key, value in wanted) and all(
            requirement.admits(labels) for requirement in self.match_expressions or ()
        )

    def to_query(self) -> str:
        """Return the selector in the API server's query form (``labelSelector=``)."""
        terms = [f"{key}={value}" for key, value in sorted((self.match_labels or {}).items())]
        for requirement in self.match_expressions or ():
            values = ",".join(requirement.values or ())
            match requirement.operator:
                case "In":
                    terms.append(f"{requirement.key} in ({values})")
                case "NotIn":
                    terms.append(f"{requirement.key} notin ({values})")
                case "Exists":
                    terms.append(requirement.key)
                case "DoesNotExist":
                    terms.append(f"!{requirement.key}")
        return ",".join(terms)


class Owner(Wire, frozen=True):
    """The policy that owns the node."""

    name: str
    uid: str
    generation: int


class Enrollment(Wire, frozen=True):
    """Which of the selected pods' processes this node enrols."""

    running_pods: str = "Attach"
    consent: str = "OptOut"
    huge_pages: str = "Auto"


class Isolation(Wire, frozen=True):
    """What becomes of this node while others merge on it too."""

    on_foreign_merging: str = "Pause"


class Ksmd(Wire, frozen=True):
    """How ksmd is tuned on this node."""

    tuning: str = "Auto"
    cpu_limit_milli_cpu: int = msgspec.field(default=200, name="cpuLimitMilliCPU")
    pages_to_scan: int | None = None
    sleep_milliseconds: int | None = None
    start_below_available_percent: int = 100
    merge_across_numa_nodes: bool | None = msgspec.field(default=None, name="mergeAcrossNUMANodes")
    max_page_sharing: int | None = None
    use_zero_pages: bool | None = None
    smart_scan: bool | None = None


class NodePolicy(Wire, frozen=True):
    """The part of the policy that a node needs."""

    namespace_selector: LabelSelector | None = None
    namespaces: tuple[str, ...] | None = None
    pod_selector: LabelSelector | None = None
    enrollment: Enrollment = Enrollment()
    isolation: Isolation = Isolation()
    ksmd: Ksmd = Ksmd()
    release_reserve_percent: int = 10


class NodeSpec(Wire, frozen=True):
    """What the node shall do."""

    owner: Owner | None = None
    granted_at: str | None = None
    desired_state: str = "Released"
    policy: NodePolicy | None = None


class ReportedOwner(Wire, frozen=True):
    """Whose processes are enrolled now."""

    uid: str


class KernelStatus(Wire, frozen=True):
    """What this node's kernel can."""

    release: str
    method: str
    features: tuple[str, ...] = ()


class SkippedCount(Wire, frozen=True):
    """How many were left alone for one reason."""

    reason: str
    count: int


class Counts(Wire, frozen=True):
    """Counts of pods, containers or processes."""

    matched: int = 0
    merging: int = 0
    skipped: tuple[SkippedCount, ...] = ()


class NodeMemory(Wire, frozen=True):
    """Memory of the node, in bytes."""

    saved_bytes: int = 0
    profit_bytes: int | None = None
    phantom_bytes: int | None = None
    available_bytes: int | None = None
    estimated_saved_bytes: int | None = None
    estimated_saved_error_bytes: int | None = None


class ForeignMerger(Wire, frozen=True):
    """A process outside the domain that asked for merging by itself."""

    pid: int
    command: str
    pod_uid: str | None = msgspec.field(default=None, name="podUID")
    pod: str | None = None


class Condition(Wire, frozen=True, kw_only=True):
    """One condition, as the Kubernetes API conventions define it."""

    type: str
    status: str
    reason: str
    message: str = ""
    observed_generation: int | None = None
    last_transition_time: str


class NodeStatus(Wire, frozen=True):
    """What the node does."""

    observed_generation: int | None = None
    owner: ReportedOwner | None = None
    boot_id: str | None = msgspec.field(default=None, name="bootID")
    agent_version: str | None = None
    kernel: KernelStatus | None = None
    pods: Counts | None = None
    containers: Counts | None = None
    processes: Counts | None = None
    memory: NodeMemory | None = None
    ksmd_milli_cpu: int | None = msgspec.field(default=None, name="ksmdMilliCPU")
    baseline: dict[str, str] | None = None
    foreign_mergers: tuple[ForeignMerger, ...] = ()
    foreign_merger_count: int = 0
    conditions: tuple[Condition, ...] = ()


class ObjectMeta(Wire, frozen=True):
    """The metadata that the agent looks at."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Pod(ObjectMeta, frozen=True):
    """The metadata of a pod, and what was read from its spec and status.

    Attributes:
        default_skip: why it is left alone unless it asks to merge; empty for no reason.
        reported: whether the kubelet has said that it runs it. No author can: the status of a pod
            that is created is dropped, and later only who may write `pods/status` changes it.
    """

    default_skip: str = ""
    reported: bool = False


class Resources(Wire, frozen=True):
    """What a container or pod may have at most, by the name of the resource."""

    limits: dict[str, Any] | None = None


class ContainerSpec(Wire, frozen=True):
    """The part of a container's spec that the agent looks at."""

    resources: Resources | None = None


class PodSpec(Wire, frozen=True):
    """The part of a pod's spec that the agent looks at; nothing of it is kept.

    Null is taken for absent: no answer of a server may end the watch for good.
    """

    priority: int | None = None
    priority_class_name: str | None = None
    runtime_class_name: str | None = None
    resources: Resources | None = None
    containers: tuple[ContainerSpec, ...] | None = None
    init_containers: tuple[ContainerSpec, ...] | None = None


class PodStatus(Wire, frozen=True):
    """The part of a pod's status that the agent looks at."""

    start_time: str | None = None


class WholePod(Wire, frozen=True):
    """A pod as the API server sends it."""

    metadata: ObjectMeta
    spec: PodSpec | None = None
    status: PodStatus | None = None


class ListMeta(Wire, frozen=True):
    """Where a list ends."""

    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class Node(Wire, frozen=True):
    """A KSMNode."""

    metadata: ObjectMeta
    spec: NodeSpec = NodeSpec()
    status: NodeStatus | None = None


class Partial(Wire, frozen=True):
    """The metadata of any object."""

    metadata: ObjectMeta


class ListPage(Wire, frozen=True):
    """One page of a list, its items not yet decoded; an empty page has null for items."""

    metadata: ListMeta = ListMeta()
    items: tuple[msgspec.Raw, ...] | None = None


class WatchEvent(Wire, frozen=True):
    """One line of a watch, its object not yet decoded."""

    type: str
    object: msgspec.Raw


def unknown_terms(spec: NodeSpec) -> list[str]:
    """Name what is asked for and cannot be understood; empty if all of it can.

    That is what a newer controller knows and this agent does not, and what is incomplete: somebody
    edited it. A spec with such a term is not acted on: nothing is enrolled and nothing released by
    it.
    """
    unknown = []
    policy = spec.policy
    match spec.desired_state:
        case "Merging" | "Observing" | "Paused":
            needed = {"an owner": spec.owner, "a policy": policy}
            unknown += [
                f"{spec.desired_state} without {name}"
                for name, value in needed.items()
                if value is None
            ]
        case "Released":
            pass
        case _:
            unknown.append(f"desiredState {spec.desired_state}")
    if policy is None:
        return unknown
    if policy.enrollment.running_pods not in ("Attach", "Skip"):
        unknown.append(f"runningPods {policy.enrollment.running_pods}")
    if policy.enrollment.consent not in ("OptOut", "OptIn"):
        unknown.append(f"consent {policy.enrollment.consent}")
    if policy.isolation.on_foreign_merging not in ("Pause", "Report"):
        unknown.append(f"onForeignMerging {policy.isolation.on_foreign_merging}")
    if policy.enrollment.huge_pages not in ("Auto", "Preserve", "Split"):
        unknown.append(f"hugePages {policy.enrollment.huge_pages}")
    if policy.ksmd.tuning not in ("Auto", "Advisor", "Fixed"):
        unknown.append(f"tuning {policy.ksmd.tuning}")
    for selector in (policy.namespace_selector, policy.pod_selector):
        unknown += [
            f"operator {requirement.operator}"
            for requirement in (selector.match_expressions or () if selector else ())
            if requirement.operator not in ("In", "NotIn", "Exists", "DoesNotExist")
        ]
    return unknown


def to_json_types(value: Wire) -> Any:
    """Return dicts, lists and scalars for JSON, without what is not set."""
    return _without_none(msgspec.to_builtins(value))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value]
    return value
