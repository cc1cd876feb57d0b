"""What the agent says of its node: conditions and figures from plain facts. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ksm_operator.agent.placement import place
from ksm_operator.agent.status import Judgement
from ksm_operator.kernel.headroom import NODE

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Sequence

    from ksm_operator.agent.knobs import Troubles
    from ksm_operator.agent.observation import Observed
    from ksm_operator.agent.releasing import Left
    from ksm_operator.agent.wire import ForeignMerger

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Facts:
    """Where the node stands.

    Attributes:
        obstacle: (reason, message) of what makes everything impossible; None for nothing.
        unknown: terms of the spec that cannot be understood.
        desired: the desiredState that is obeyed; empty before the first.
        former: uid of a former owner whose processes are still enrolled; empty for none.
        manager: whose hands are on ksmd, and how it is handed over; empty for nobody's.
        touched: something on this node is to be given back.
        settled: every container that was selected when this spec came has been looked at.
        leaving: containers that have left and are not released.
        left: processes whose release is blocked.
        processes: enrolled processes.
        containers: enrolled containers.
        yielded: files of ksmd that somebody else changed.
        unrestored: files left alone at the last restore, for the same reason.
        troubles: files that could not be written.
        foreign: processes outside of the domain that asked for merging.
        foreign_count: how many.
        looked: whether anybody has looked for them yet.
        held: ksmd has to stand still for them.
        run: what /sys/kernel/mm/ksm/run holds; None where it cannot be read.
        run_is_theirs: somebody else decides on that; see `run_is_theirs`.
        helper_deaths: how often the helper process died, where it dies again and again; else 0.
        exposed: which cgroups lack room for what others share with them; empty for none.
        debt: why ksmd is stopped for merge debt though it should merge; empty if it is not.
        observed: what was found last of what merging would give back; None for nothing yet.
    """

    obstacle: tuple[str, str] | None
    unknown: Sequence[str]
    desired: str
    former: str
    manager: str
    touched: bool
    settled: bool
    leaving: int
    left: Sequence[Left]
    processes: int
    containers: int
    yielded: Sequence[str]
    unrestored: Sequence[str]
    troubles: Troubles
    foreign: Sequence[ForeignMerger]
    foreign_count: int
    looked: bool
    held: bool = False
    run: int | None = None
    run_is_theirs: bool = False
    helper_deaths: int = 0
    exposed: str = ""
    debt: str = ""
    observed: Observed | None = None


def run_is_theirs(yielded: Collection[str], saved: Container[str]) -> bool:
    """Tell whether somebody else decides on whether ksmd runs.

    Args:
        yielded: files of ksmd that somebody else changed since we wrote them.
        saved: files whose value before us is kept, which is so of all that we wrote.
    """
    return "run" in yielded or "run" not in saved


def judge(facts: Facts) -> list[Judgement]:
    """Return the four conditions."""
    return [_ready(facts), _released(facts), _isolated(facts), _degraded(facts)]


def _ready(facts: Facts) -> Judgement:  # noqa: C901, PLR0911 - one line per answer
    if facts.obstacle is not None:
        return Judgement("Ready", False, _hindrance(facts.obstacle), facts.obstacle[1])
    if facts.unknown:
        return Judgement(
            "Ready",
            False,
            "Blocked",
            f"This agent does not understand {', '.join(facts.unknown)} and changes nothing: "
            "upgrade it, or undo what was edited by hand.",
        )
    if facts.manager:
        return Judgement("Ready", False, "ExternallyManaged", facts.manager)
    if facts.left:
        return Judgement("Ready", False, "Blocked", describe_left(facts.left))
    if facts.desired in ("Merging", "Observing", "Paused") and facts.former:
        return Judgement(
            "Ready",
            False,
            "Releasing",
            f"Processes of the former owner (uid {facts.former}) are released first.",
        )
    if facts.desired == "Merging" and facts.leaving:
        return Judgement(
            "Ready",
            False,
            "Releasing",
            f"{facts.leaving} containers left the selection and are released before others join.",
        )
    match facts.desired:
        case "Merging" if not facts.settled:
            return Judgement("Ready", False, "Enrolling", "Selected containers are being enrolled.")
        case "Merging":
            return Judgement(
                "Ready",
                True,
                "Merging",
                f"{facts.processes} processes of {facts.containers} containers are enrolled."
                + (f" {facts.exposed}" if facts.exposed else ""),
            )
        case "Paused":
            return Judgement(
                "Ready", True, "Paused", "What is merged stays merged; ksmd does not scan."
            )
        case "Observing" if not facts.touched:
            return Judgement("Ready", True, "Observing", _describe_observed(facts.observed))
        case _ if facts.touched:
            return Judgement("Ready", False, "Releasing", "Merged memory is being given back.")
        case _:
            return Judgement("Ready", True, "Released", "Nothing is enrolled.")


def _hindrance(obstacle: tuple[str, str]) -> str:
    return "Unsupported" if obstacle[0] == "Unsupported" else "Blocked"


def _describe_observed(observed: Observed | None) -> str:
    if observed is None:
        return "Nothing is merged; what merging would give back is being read from pods' memory."
    return (
        f"Merging would give back about {observed.saved.size / MIB:.0f} MiB, give or take "
        f"{math.ceil(observed.saved.error / MIB)} MiB, of {observed.read_bytes / MIB:.0f} MiB that "
        f"{observed.processes} processes hold."
    )


def describe_left(left: Sequence[Left]) -> str:
    """Say which processes keep merged memory, how much, and why."""
    remaining = sum(one.remaining_bytes for one in left)
    reasons = ", ".join(sorted({one.reason for one in left}))
    first = left[0]
    advice = "raise its pod's memory limit or free memory; " if "NoHeadroom" in reasons else ""
    who = "1 process keeps" if len(left) == 1 else f"{len(left)} processes keep"
    return (
        f"{who} {remaining / MIB:.0f} MiB merged ({reasons}), first pid {first.process.pid} in "
        f"container {_container(first.path)}{_lack(first)}: {advice}it is tried again."
    )


def _lack(left: Left) -> str:
    if left.level is None or not left.lacking_bytes:
        return ""
    # The end of a path tells a person which cgroup it is.
    who = {left.path: "which", NODE: "the node"}.get(left.level, f"cgroup {left.level[-16:]}")
    return f", {who} lacks {math.ceil(left.lacking_bytes / MIB)} MiB"


def _container(path: str) -> str:
    placement = place(path)
    return (placement.container_id or path)[:12] if placement is not None else path[-12:]


def _released(facts: Facts) -> Judgement:
    if facts.touched:
        return Judgement("Released", False, "NotReleased", "")
    return Judgement(
        "Released", True, "Released", "Nothing is enrolled and ksmd's values are as they were."
    )


def _isolated(facts: Facts) -> Judgement:
    if facts.obstacle is not None:
        message = "Nothing is merged here by the operator, and others are not looked for."
        return Judgement("Isolated", None, _hindrance(facts.obstacle), message)
    if not facts.looked:
        return Judgement("Isolated", None, "Pending", "Others who merge are being looked for.")
    if facts.foreign_count == 0:
        return Judgement("Isolated", True, "NoForeignMergers", "")
    first = facts.foreign[0]
    others = f" and {facts.foreign_count - 1} more" if facts.foreign_count > 1 else ""
    return Judgement(
        "Isolated",
        False,
        "ForeignMergers",
        f"{_who(first)}{others} asked for merging, outside of the policy; {_consequence(facts)}.",
    )


def _consequence(facts: Facts) -> str:
    if facts.held and facts.run == 1 and facts.run_is_theirs:
        return "somebody else has ksmd scan"
    return "ksmd goes on" if facts.run == 1 or not facts.held else "ksmd stands still meanwhile"


def _who(merger: ForeignMerger) -> str:
    process = f"{merger.command} (pid {merger.pid})"
    if merger.pod is not None:
        return f"pod {merger.pod}: {process}"
    return f"pod {merger.pod_uid}: {process}" if merger.pod_uid else f"host process {process}"


def _degraded(facts: Facts) -> Judgement:  # noqa: PLR0911 - one line per answer
    troubles = facts.troubles
    if facts.obstacle is not None and facts.obstacle[0] == "SysfsReadOnly":
        return Judgement("Degraded", True, "SysfsReadOnly", facts.obstacle[1])
    if facts.helper_deaths:
        return Judgement(
            "Degraded",
            True,
            "HelperFailing",
            f"The agent's helper process died {facts.helper_deaths} times: nothing can be enrolled "
            "or released. Its pod's log and the node's kernel log say why.",
        )
    if troubles.read_only:
        return Judgement("Degraded", True, "SysfsReadOnly", troubles.read_only)
    if troubles.pending:
        return Judgement(
            "Degraded",
            True,
            "PendingRelease",
            f"{', '.join(troubles.pending)}: the kernel takes no change while pages are shared or "
            "ksmd is held up; it is tried again.",
        )
    if facts.debt and facts.desired == "Merging":
        return Judgement("Degraded", True, "MergeDebt", facts.debt)
    changed = sorted({*facts.yielded, *facts.unrestored})
    if changed:
        return Judgement(
            "Degraded",
            True,
            "ExternallyModified",
            f"Somebody else changed {', '.join(changed[:4])} of ksmd: left alone. "
            "Edit the policy to take over again.",
        )
    if troubles.missing or troubles.refused:
        names = ", ".join((*troubles.missing, *troubles.refused))
        return Judgement("Degraded", True, "Unsupported", f"This kernel cannot do: {names}.")
    return Judgement("Degraded", False, "AsExpected", "")
