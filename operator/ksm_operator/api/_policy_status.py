"""The status of a KSMPolicy: what people and machines read."""

from typing import Annotated, Final

from pydantic import Field

from ksm_operator.api._base import Model, NamespaceName
from ksm_operator.api._conditions import Condition, PolicyReason


class NodeCounts(Model):
    """Nodes of the policy, by what they report."""

    matched: Annotated[int, Field(description="Nodes that the policy selects.")] = 0
    ready: Annotated[int, Field(description="Nodes that do what the policy asks.")] = 0
    releasing: Annotated[int, Field(description="Nodes that give merged pages back.")] = 0
    blocked: Annotated[int, Field(description="Nodes where something stands in the way.")] = 0
    unsupported: Annotated[int, Field(description="Nodes whose kernel or machine cannot.")] = 0
    externally_managed: Annotated[
        int, Field(description="Nodes whose KSM is in somebody else's hands.")
    ] = 0
    conflicted: Annotated[int, Field(description="Nodes lost to another policy.")] = 0
    summary: Annotated[str, Field(description="Ready of matched nodes, for people.")] = "0/0"


class PodCounts(Model):
    """Pods of the policy on all of its nodes."""

    matched: Annotated[int, Field(description="Pods that the policy selects.")] = 0
    merging: Annotated[int, Field(description="Pods with enrolled processes.")] = 0
    skipped: Annotated[int, Field(description="Pods left alone; KSMNodes give the reasons.")] = 0
    summary: Annotated[str, Field(description="Merging of matched pods, for people.")] = "0/0"


class PolicyMemory(Model):
    """What the policy gives back."""

    saved_bytes: Annotated[int, Field(description="Memory given back, each kept page once.")] = 0
    profit_bytes: Annotated[
        int | None,
        Field(
            description="Memory given back less the kernel's own cost of merging; may be negative. "
            "Absent where kernels do not tell (before 6.4)."
        ),
    ] = None
    estimated_saved_bytes: Annotated[
        int | None,
        Field(
            description="With mode Observe: what merging would give back, on the nodes that have "
            "looked."
        ),
    ] = None
    estimated_saved_error_bytes: Annotated[
        int | None, Field(description="By how much estimatedSavedBytes may be too high or too low.")
    ] = None
    saved: Annotated[
        str,
        Field(
            description="savedBytes for people; with mode Observe estimatedSavedBytes, after a ~."
        ),
    ] = "0"


class NamespaceSummary(Model):
    """The namespaces that form the security domain now."""

    count: Annotated[int, Field(description="How many there are.")] = 0
    names: Annotated[
        tuple[NamespaceName, ...],
        Field(max_length=50, description="The first 50 by name."),
    ] = ()


class KSMPolicyStatus(Model):
    """What the cluster makes of the policy."""

    observed_generation: Annotated[
        int | None, Field(description="The metadata.generation that this status was judged on.")
    ] = None
    nodes: Annotated[NodeCounts, Field(description="Nodes, counted.")] = NodeCounts()
    pods: Annotated[PodCounts, Field(description="Pods, counted.")] = PodCounts()
    memory: Annotated[PolicyMemory, Field(description="Memory given back.")] = PolicyMemory()
    ksmd_milli_cpu: Annotated[
        int | None,
        Field(alias="ksmdMilliCPU", description="CPU that ksmd uses on all nodes, in millicores."),
    ] = None
    namespaces: Annotated[
        NamespaceSummary, Field(description="Namespaces of the security domain.")
    ] = NamespaceSummary()
    conditions: Annotated[
        tuple[Condition, ...],
        Field(
            max_length=8,
            description="Ready, Reconciling and Stalled (present only while true), Degraded, "
            "Isolated, Conflicted.",
            json_schema_extra={
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
            },
        ),
    ] = ()


UNSEEN: Final = {
    "conditions": [
        {
            "type": "Ready",
            "status": "Unknown",
            "reason": str(PolicyReason.PENDING),
            "message": "no controller has seen this policy yet; if this stays, see whether "
            "ksm-operator is installed and its controller runs",
            # The schema asks for one, and a default cannot tell the time.
            "lastTransitionTime": "1970-01-01T00:00:00Z",
        }
    ]
}
"""The status of a policy that nobody has answered to.

Programs that wait by conditions (kstatus, so Helm and Flux) take an object without any for done.
"""
