"""The two kinds of the API group ``ksm-operator.dev``: what users write and what nodes report.

The pydantic models here are the one source of the CustomResourceDefinitions in ``crds/`` and in
the chart (``make generate``); a test fails when they drift.

* `KSMPolicy` (short name ``ksmp``): whose pods merge, where, and at what cost. Users write it.
* `KSMNode` (short name ``ksmn``): what one node shall do and what it reports. The controller
  writes its spec, the agent of that node its status.
"""

from ksm_operator.api._base import (
    AGENT_LABEL,
    FINALIZER,
    GROUP,
    LABEL_SYNTAX,
    MERGE_LABEL,
    VERSION,
)
from ksm_operator.api._conditions import Condition, NodeCondition, NodeReason, PolicyReason
from ksm_operator.api._node import (
    ContainerCounts,
    EnrollmentOnNode,
    ForeignMerger,
    IsolationOnNode,
    KernelStatus,
    KsmdOnNode,
    KSMNode,
    KSMNodeSpec,
    KSMNodeStatus,
    NodeMemory,
    NodePolicy,
    Owner,
    ReportedOwner,
    SkippedCount,
)
from ksm_operator.api._policy import (
    Enrollment,
    Isolation,
    Ksmd,
    KSMPolicy,
    KSMPolicySpec,
    Rollout,
)
from ksm_operator.api._policy_status import (
    KSMPolicyStatus,
    NamespaceSummary,
    NodeCounts,
    PodCounts,
    PolicyMemory,
)
from ksm_operator.api._quantity import QuantityError, milli_cpu, node_count
from ksm_operator.api._selector import LabelSelector, SelectorRequirement

__all__ = [
    "AGENT_LABEL",
    "FINALIZER",
    "GROUP",
    "LABEL_SYNTAX",
    "MERGE_LABEL",
    "VERSION",
    "Condition",
    "ContainerCounts",
    "Enrollment",
    "EnrollmentOnNode",
    "ForeignMerger",
    "Isolation",
    "IsolationOnNode",
    "KSMNode",
    "KSMNodeSpec",
    "KSMNodeStatus",
    "KSMPolicy",
    "KSMPolicySpec",
    "KSMPolicyStatus",
    "KernelStatus",
    "Ksmd",
    "KsmdOnNode",
    "LabelSelector",
    "NamespaceSummary",
    "NodeCondition",
    "NodeCounts",
    "NodeMemory",
    "NodePolicy",
    "NodeReason",
    "Owner",
    "PodCounts",
    "PolicyMemory",
    "PolicyReason",
    "QuantityError",
    "ReportedOwner",
    "Rollout",
    "SelectorRequirement",
    "SkippedCount",
    "milli_cpu",
    "node_count",
]
