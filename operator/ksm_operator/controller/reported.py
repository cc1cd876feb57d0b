"""What the controller keeps of what an agent says of its node.

There are thousands of these at once: a few words and figures of each, and every word kept once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from sys import intern
from typing import Any

from pydantic import ValidationError

from ksm_operator.api import KSMNodeStatus


@dataclass(frozen=True, slots=True)
class Judged:
    """A condition as the agent judged it."""

    type: str
    status: str
    reason: str
    message: str
    observed_generation: int | None


@dataclass(frozen=True, slots=True)
class Reported:
    """The status of a KSMNode; empty where the agent has said nothing yet.

    Attributes:
        observed_generation: of the spec that the agent saw last.
        owner_uid: the policy whose processes are enrolled, None for nobody's.
        conditions: in the agent's order.
        pods_matched: pods of the domain on the node.
        pods_merging: of those, the ones that merge.
        pods_skipped: of those, the ones that are left alone.
        saved_bytes: what merging gives back; None where the agent cannot say.
        profit_bytes: the same less what it costs, None on kernels that do not tell.
        estimated_bytes: what merging would give back; None where the agent did not look.
        estimated_error_bytes: by how much that may be wrong.
        ksmd_milli_cpu: what ksmd uses, None where the agent cannot say.
    """

    observed_generation: int | None = None
    owner_uid: str | None = None
    conditions: tuple[Judged, ...] = ()
    pods_matched: int = 0
    pods_merging: int = 0
    pods_skipped: int = 0
    saved_bytes: int | None = None
    profit_bytes: int | None = None
    estimated_bytes: int | None = None
    estimated_error_bytes: int | None = None
    ksmd_milli_cpu: int | None = None


def reported(raw: Mapping[str, Any]) -> Reported:
    """Return what is needed of a status; nothing of one that does not keep to the schema."""
    try:
        status = KSMNodeStatus.model_validate(raw)
    except ValidationError:
        return Reported()
    pods, memory = status.pods, status.memory
    return Reported(
        observed_generation=status.observed_generation,
        owner_uid=intern(status.owner.uid) if status.owner is not None else None,
        conditions=tuple(
            Judged(
                type=intern(one.type),
                status=intern(one.status),
                reason=intern(one.reason),
                message=intern(one.message),
                observed_generation=one.observed_generation,
            )
            for one in status.conditions
        ),
        pods_matched=pods.matched if pods is not None else 0,
        pods_merging=pods.merging if pods is not None else 0,
        pods_skipped=sum(one.count for one in pods.skipped) if pods is not None else 0,
        saved_bytes=memory.saved_bytes if memory is not None else None,
        profit_bytes=memory.profit_bytes if memory is not None else None,
        estimated_bytes=memory.estimated_saved_bytes if memory is not None else None,
        estimated_error_bytes=memory.estimated_saved_error_bytes if memory is not None else None,
        ksmd_milli_cpu=status.ksmd_milli_cpu,
    )
