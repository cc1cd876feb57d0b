"""KSMNode: one per owned or labelled node; the controller writes spec, the agent status."""

from typing import Annotated, Any, Literal

from pydantic import Field

from ksm_operator.api._base import Model, NamespaceName, cel, percent_rule
from ksm_operator.api._conditions import NodeCondition
from ksm_operator.api._policy import NAMESPACES_SIZE_RULE, KsmdSysfs, Scope

Uid = Annotated[str, Field(max_length=36)]
Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class Owner(Model):
    """The policy that owns the node."""

    name: Annotated[str, Field(max_length=253, description="The policy's name.")]
    uid: Annotated[Uid, Field(description="The policy's uid: another policy of that name differs.")]
    generation: Annotated[int, Field(description="The policy's generation that this spec carries.")]


class EnrollmentOnNode(Model):
    """Which of the selected pods' processes this node enrols."""

    running_pods: Annotated[Literal["Attach", "Skip"], Field(description="As in the policy.")] = (
        "Attach"
    )
    consent: Annotated[Literal["OptOut", "OptIn"], Field(description="As in the policy.")] = (
        "OptOut"
    )
    huge_pages: Annotated[
        Literal["Auto", "Preserve", "Split"], Field(description="As in the policy.")
    ] = "Auto"


class IsolationOnNode(Model):
    """What becomes of this node while others merge on it too."""

    on_foreign_merging: Annotated[
        Literal["Pause", "Report"], Field(description="As in the policy.")
    ] = "Pause"


class KsmdOnNode(KsmdSysfs):
    """How ksmd is tuned on this node; quantities are resolved."""

    tuning: Annotated[
        Literal["Auto", "Advisor", "Fixed"], Field(description="As in the policy.")
    ] = "Auto"
    cpu_limit_milli_cpu: Annotated[
        int,
        Field(
            alias="cpuLimitMilliCPU",
            ge=1,
            description="The most CPU that ksmd may use, in millicores.",
        ),
    ] = 200
    pages_to_scan: Annotated[
        int | None, Field(ge=1, le=1_000_000, description="Pages per batch, with Fixed.")
    ] = None
    sleep_milliseconds: Annotated[
        int | None, Field(ge=1, le=3_600_000, description="Pause between batches, with Fixed.")
    ] = None
    start_below_available_percent: Annotated[
        int,
        Field(
            description="Scan only while MemAvailable is below this share of MemTotal.",
            json_schema_extra=percent_rule("startBelowAvailablePercent", 100),
        ),
    ] = 100


class NodePolicy(Model):
    """The part of the policy that a node needs, selectors unresolved."""

    namespace_selector: Annotated[Scope | None, Field(description="As in the policy.")] = None
    namespaces: Annotated[
        tuple[NamespaceName, ...] | None,
        Field(
            max_length=32,
            description="As in the policy.",
            json_schema_extra=cel(NAMESPACES_SIZE_RULE),
        ),
    ] = None
    pod_selector: Annotated[Scope | None, Field(description="As in the policy.")] = None
    enrollment: Annotated[EnrollmentOnNode, Field(description="Which processes are enrolled.")] = (
        EnrollmentOnNode()
    )
    isolation: Annotated[
        IsolationOnNode, Field(description="What is done where others merge too.")
    ] = IsolationOnNode()
    ksmd: Annotated[
        KsmdOnNode,
        Field(description="How ksmd is tuned.", json_schema_extra={"default": {}}),
    ] = KsmdOnNode()
    release_reserve_percent: Annotated[
        int,
        Field(
            description="Share of MemTotal that giving pages back may never eat.",
            json_schema_extra=percent_rule("releaseReservePercent", 10),
        ),
    ] = 10


class KSMNodeSpec(Model):
    """What the node shall do. Without an owner only Released is understood."""

    owner: Annotated[Owner | None, Field(description="The policy that owns the node.")] = None
    granted_at: Annotated[
        Timestamp | None, Field(description="Since when the owner has the node.")
    ] = None
    desired_state: Annotated[
        Literal["Merging", "Observing", "Paused", "Released"],
        Field(
            description="Merging: enrol and scan. Observing: give everything back, and estimate "
            "what merging would give back. Paused: keep, do not scan. Released: give everything "
            "back. A value that the agent does not know means: change nothing."
        ),
    ] = "Released"
    policy: Annotated[
        NodePolicy | None, Field(description="The node's part of the owner's spec.")
    ] = None


class ReportedOwner(Model):
    """Whose processes are enrolled now."""

    uid: Annotated[Uid, Field(description="The policy's uid.")]


class KernelStatus(Model):
    """What this node's kernel can."""

    release: Annotated[str, Field(max_length=64, description="The kernel's release (uname -r).")]
    method: Annotated[
        Literal["Prctl", "Madvise", "None"],
        Field(description="How processes are enrolled; None where the kernel cannot."),
    ]
    features: Annotated[
        tuple[Annotated[str, Field(max_length=24)], ...],
        Field(max_length=12, description="Abilities found by trying."),
    ] = ()


class SkippedCount(Model):
    """How many were left alone for one reason."""

    reason: Annotated[str, Field(max_length=24, description="Why, in one word.")]
    count: Annotated[int, Field(description="How many.")]


class ContainerCounts(Model):
    """Counts of pods, containers or processes."""

    matched: Annotated[int, Field(description="Selected by the policy.")] = 0
    merging: Annotated[int, Field(description="Enrolled for merging.")] = 0
    skipped: Annotated[
        tuple[SkippedCount, ...],
        Field(max_length=8, description="Left alone, by reason; the last may be Other."),
    ] = ()


class NodeMemory(Model):
    """Memory of the node."""

    saved_bytes: Annotated[
        int,
        Field(description="Memory given back: (pages_sharing + ksm_zero_pages) x page size."),
    ] = 0
    profit_bytes: Annotated[
        int | None,
        Field(description="The kernel's general_profit, may be negative; absent before 6.4."),
    ] = None
    phantom_bytes: Annotated[
        int | None,
        Field(
            description="Merged pages charged to cgroups that no longer map them; "
            "absent where it was not measured."
        ),
    ] = None
    available_bytes: Annotated[int | None, Field(description="MemAvailable.")] = None
    estimated_saved_bytes: Annotated[
        int | None, Field(description="While Observing: what merging would give back.")
    ] = None
    estimated_saved_error_bytes: Annotated[
        int | None,
        Field(
            description="By how much it may be too high or too low: the sample's error (95 %), and "
            "what changed between two readings."
        ),
    ] = None


class ForeignMerger(Model):
    """A process outside the domain that asked for merging by itself."""

    pid: Annotated[int, Field(description="Its process id on the node.")]
    command: Annotated[str, Field(max_length=16, description="Its command name.")]
    pod_uid: Annotated[Uid | None, Field(alias="podUID", description="Its pod, if it has one.")] = (
        None
    )
    pod: Annotated[
        str | None,
        Field(
            max_length=80,
            description="That pod as namespace/name, cut short if need be; absent where the agent "
            "does not know it.",
        ),
    ] = None


class KSMNodeStatus(Model):
    """What the node does. Written by its agent only, quietly."""

    observed_generation: Annotated[
        int | None, Field(description="The metadata.generation that this status was judged on.")
    ] = None
    owner: Annotated[
        ReportedOwner | None, Field(description="Whose processes are enrolled now, if any.")
    ] = None
    boot_id: Annotated[
        str | None, Field(alias="bootID", max_length=36, description="This boot of the node.")
    ] = None
    agent_version: Annotated[
        str | None, Field(max_length=32, description="The agent's version.")
    ] = None
    kernel: Annotated[KernelStatus | None, Field(description="What the kernel can.")] = None
    pods: Annotated[ContainerCounts | None, Field(description="Pods, counted.")] = None
    containers: Annotated[ContainerCounts | None, Field(description="Containers, counted.")] = None
    processes: Annotated[ContainerCounts | None, Field(description="Processes, counted.")] = None
    memory: Annotated[NodeMemory | None, Field(description="Memory of the node.")] = None
    ksmd_milli_cpu: Annotated[
        int | None, Field(alias="ksmdMilliCPU", description="CPU that ksmd uses, in millicores.")
    ] = None
    baseline: Annotated[
        dict[str, Annotated[str, Field(max_length=20)]] | None,
        Field(
            description="Values under /sys/kernel/mm/ksm before the agent's first write, and the "
            "CPUs of ksmd (`affinity`) before the agent moved it.",
            json_schema_extra={"maxProperties": 12},
        ),
    ] = None
    foreign_mergers: Annotated[
        tuple[ForeignMerger, ...],
        Field(
            max_length=5,
            description="The first few processes outside the domain that asked for merging by "
            "themselves, as they were seen last.",
            json_schema_extra={"x-kubernetes-list-type": "atomic"},
        ),
    ] = ()
    foreign_merger_count: Annotated[int, Field(description="How many of them there are.")] = 0
    conditions: Annotated[
        tuple[NodeCondition, ...],
        Field(
            max_length=4,
            description="Ready, Released, Isolated, Degraded.",
            json_schema_extra={
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
            },
        ),
    ] = ()


class KSMNode(Model):
    """What one node does for the policy that owns it. Written by the operator, read by people."""

    metadata: dict[str, Any]
    spec: KSMNodeSpec = KSMNodeSpec()
    status: KSMNodeStatus | None = None
