"""Conditions of both kinds: the words that people and machines read."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from ksm_operator.api._base import Model


class Condition(Model):
    """One condition, as the Kubernetes API conventions define it."""

    type: Annotated[str, Field(max_length=32, description="What this condition is about.")]
    status: Annotated[
        Literal["True", "False", "Unknown"], Field(description="Whether the condition holds.")
    ]
    reason: Annotated[
        str, Field(max_length=32, description="One word for why, for programs to compare.")
    ]
    message: Annotated[
        str, Field(max_length=300, description="A sentence for people: what, why, what to do.")
    ] = ""
    observed_generation: Annotated[
        int | None,
        Field(description="The metadata.generation that this condition was judged on."),
    ] = None
    last_transition_time: Annotated[
        str,
        Field(
            description="When the status last changed.",
            json_schema_extra={"format": "date-time"},
        ),
    ]


class NodeCondition(Condition):
    """A condition of a KSMNode: a shorter message, because there are thousands of KSMNodes."""

    message: Annotated[
        str, Field(max_length=200, description="A sentence for people: what, why, what to do.")
    ] = ""


class NodeReason(StrEnum):
    """Reasons of KSMNode conditions."""

    # Ready
    MERGING = "Merging"
    OBSERVING = "Observing"
    PAUSED = "Paused"
    RELEASED = "Released"
    ENROLLING = "Enrolling"
    RELEASING = "Releasing"
    UNSUPPORTED = "Unsupported"
    EXTERNALLY_MANAGED = "ExternallyManaged"
    BLOCKED = "Blocked"
    # Released
    NOT_RELEASED = "NotReleased"
    # Isolated
    PENDING = "Pending"
    NO_FOREIGN_MERGERS = "NoForeignMergers"
    FOREIGN_MERGERS = "ForeignMergers"
    # Degraded
    AS_EXPECTED = "AsExpected"
    EXTERNALLY_MODIFIED = "ExternallyModified"
    PENDING_RELEASE = "PendingRelease"
    HELPER_FAILING = "HelperFailing"
    MERGE_DEBT = "MergeDebt"
    SYSFS_READ_ONLY = "SysfsReadOnly"


class PolicyReason(StrEnum):
    """Reasons of KSMPolicy conditions."""

    # Ready
    PENDING = "Pending"
    ALL_NODES_READY = "AllNodesReady"
    NODES_NOT_READY = "NodesNotReady"
    NO_MATCHING_NODES = "NoMatchingNodes"
    NO_MATCHING_PODS = "NoMatchingPods"
    OBSERVING = "Observing"
    PAUSED = "Paused"
    TERMINATING = "Terminating"
    UNINSTALLED = "Uninstalled"
    # Reconciling
    ENROLLING_NODES = "EnrollingNodes"
    RELEASING_NODES = "ReleasingNodes"
    # Stalled
    NODES_BLOCKED = "NodesBlocked"
    ROLLOUT_STOPPED = "RolloutStopped"
    INVALID_SPEC = "InvalidSpec"
    # Degraded
    AS_EXPECTED = "AsExpected"
    NODES_DEGRADED = "NodesDegraded"
    # Isolated
    NO_FOREIGN_MERGERS = "NoForeignMergers"
    FOREIGN_MERGERS = "ForeignMergers"
    # Conflicted
    NO_CONFLICT = "NoConflict"
    NODES_LOST = "NodesLost"
