"""The conditions of a policy: words for people, and for the programs that wait for it."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final, Literal

from ksm_operator.api import MERGE_LABEL, Condition, KSMPolicySpec, PodCounts, PolicyReason
from ksm_operator.controller.facts import Policy, written

if TYPE_CHECKING:
    from ksm_operator.controller.status import Observed

Truth = Literal["True", "False", "Unknown"]
_SHOWN: Final = 3
_MAX_MESSAGE: Final = 300


def judge(
    policy: Policy,
    observed: "Observed",
    *,
    pods: PodCounts,
    estimate: str = "",
    namespaces: int,
    before: Iterable[Condition],
    now: datetime,
) -> tuple[Condition, ...]:
    """Return the conditions of a policy.

    Args:
        policy: the policy.
        observed: what its nodes do.
        pods: its pods, counted.
        estimate: what merging would give back, in words; empty where nobody has looked.
        namespaces: how many namespaces it selects.
        before: the conditions that it has; one that stays as it was keeps its time.
        now: the time of a change.
    """
    judged: list[tuple[str, Truth, PolicyReason, str]] = [
        ("Ready", *_ready(policy, observed, pods, namespaces, estimate)),
        *_passing(policy, observed),
        ("Degraded", *_degraded(observed)),
        ("Isolated", *_isolated(observed)),
        ("Conflicted", *_conflicted(observed)),
    ]
    known = {condition.type: condition for condition in before}
    return tuple(
        _condition(
            before=known.get(kind),
            kind=kind,
            status=status,
            reason=reason,
            message=message,
            generation=policy.generation,
            now=now,
        )
        for kind, status, reason, message in judged
    )


def _condition(
    *,
    before: Condition | None,
    kind: str,
    status: Truth,
    reason: str,
    message: str,
    generation: int,
    now: datetime,
) -> Condition:
    same = before is not None and before.status == status
    return Condition(
        type=kind,
        status=status,
        reason=str(reason),
        message=message if len(message) <= _MAX_MESSAGE else f"{message[: _MAX_MESSAGE - 3]}...",
        observed_generation=generation,
        last_transition_time=before.last_transition_time
        if before is not None and same
        else written(now),
    )


def _ready(
    policy: Policy, observed: "Observed", pods: PodCounts, namespaces: int, estimate: str
) -> tuple[Truth, PolicyReason, str]:
    if policy.deleted_at is not None:
        return "False", PolicyReason.TERMINATING, f"being deleted: {_releasing(policy, observed)}"
    if policy.spec is None:
        return "False", PolicyReason.INVALID_SPEC, _invalid(policy)
    if not observed.matched:
        return (
            "True",
            PolicyReason.NO_MATCHING_NODES,
            f"no Linux node (amd64, arm64; not {MERGE_LABEL}=disabled) matches spec.nodeSelector",
        )
    if len(observed.lost) == len(observed.matched):
        return "False", PolicyReason.NODES_LOST, _lost(observed.lost)
    waiting = (*observed.blocked, *observed.pending)
    if waiting or (observed.external and not observed.ready):
        names = waiting or observed.external
        count = f"{len(names)} of {_plural(len(observed.matched), 'node')} not ready: "
        return "False", PolicyReason.NODES_NOT_READY, count + _explained(names, observed)
    return _all_ready(policy, observed, pods, namespaces, estimate)


def _all_ready(
    policy: Policy, observed: "Observed", pods: PodCounts, namespaces: int, estimate: str
) -> tuple[Truth, PolicyReason, str]:
    assert policy.spec is not None
    ready = _plural(len(observed.ready), "node")
    if not observed.ready and observed.unsupported:
        return (
            "True",
            PolicyReason.NO_MATCHING_NODES,
            f"none of {_plural(len(observed.unsupported), 'matching node')} can merge: "
            + _explained(observed.unsupported, observed),
        )
    if not observed.ready and observed.waived:
        count = _plural(len(observed.matched), "matching node")
        message = f"none of {count} counts now (not Ready, being deleted or just joined): "
        return "True", PolicyReason.NO_MATCHING_NODES, message + shown(observed.waived)
    if policy.spec.mode == "Paused":
        return "True", PolicyReason.PAUSED, f"spec.mode is Paused: {ready} keep, and do not scan"
    if namespaces == 0:
        return (
            "True",
            PolicyReason.NO_MATCHING_PODS,
            "no namespace is selected: compare kubectl get namespaces --show-labels",
        )
    if pods.matched == 0:
        return (
            "True",
            PolicyReason.NO_MATCHING_PODS,
            f"no running pod in {_plural(namespaces, 'namespace')} is selected on {ready}",
        )
    return _at_work(policy.spec, pods, ready, estimate)


def _at_work(
    spec: KSMPolicySpec, pods: PodCounts, ready: str, estimate: str
) -> tuple[Truth, PolicyReason, str]:
    count = _plural(pods.matched, "pod")
    if spec.mode != "Observe":
        message = f"{pods.merging} of {count} merging on {ready}"
        return "True", PolicyReason.ALL_NODES_READY, message
    told = f"merging {count} on {ready} would give back {estimate}"
    message = told if estimate else f"nothing is merged; memory of {count} on {ready} is being read"
    return "True", PolicyReason.OBSERVING, message


def _passing(policy: Policy, observed: "Observed") -> list[tuple[str, Truth, PolicyReason, str]]:
    """Return Reconciling and Stalled, each only while it is true."""
    if policy.deleted_at is None and policy.spec is None:
        return [("Stalled", "True", PolicyReason.INVALID_SPEC, _invalid(policy))]
    if policy.deleted_at is not None:
        message = _releasing(policy, observed)
        return [("Reconciling", "True", PolicyReason.RELEASING_NODES, message)]
    # A node that nobody can hear of would keep programs waiting for as long as it is away, and one
    # that cannot go on for as long as nobody helps.
    releasing = sorted({*observed.releasing} - {*observed.unreachable} - {*observed.stuck})
    enrolling = sorted({*observed.pending} - {*observed.waiting, *observed.releasing})
    if releasing or enrolling or (observed.waiting and not observed.stopped):
        reason = PolicyReason.RELEASING_NODES if releasing else PolicyReason.ENROLLING_NODES
        message = _under_way(observed, releasing, enrolling)
        return [("Reconciling", "True", reason, message)]
    if observed.waiting:
        done = f"{len(observed.ready)} of {_plural(len(observed.matched), 'node')}"
        message = (
            f"stopped at {done}; mend these, or label them {MERGE_LABEL}=disabled: "
            + _with_reasons(observed.stopped)
        )
        return [("Stalled", "True", PolicyReason.ROLLOUT_STOPPED, message)]
    blocked = _blocked(observed)
    if blocked:
        message = f"{_plural(len(blocked), 'node')} blocked: {_with_reasons(blocked)}"
        return [("Stalled", "True", PolicyReason.NODES_BLOCKED, message)]
    return []


def _under_way(observed: "Observed", releasing: Sequence[str], enrolling: Sequence[str]) -> str:
    stopped = f" (stopped by {shown(list(observed.stopped))})" if observed.stopped else ""
    counts = [
        f"{word} {len(names)}{more}"
        for word, names, more in (
            ("releasing", releasing, ""),
            ("enrolling", enrolling, ""),
            ("unreachable", observed.absent if observed.waiting else (), ""),
            ("waiting", observed.waiting, stopped),
        )
        if names
    ]
    done = f"done {len(observed.ready)} of {_plural(len(observed.matched), 'node')}"
    names = [*releasing, *enrolling, *observed.absent] or observed.waiting
    return f"{', '.join([*counts, done])}: {shown(names)}"


def _releasing(policy: Policy, observed: "Observed") -> str:
    left = observed.releasing
    if not left:
        return "every node is released"
    of_all = f" of {observed.to_release}" if policy.deleted_at is not None else ""
    message = f"releasing {len(left)}{of_all} nodes: {shown(left)}"
    if observed.unreachable:
        message += f"; {len(observed.unreachable)} unreachable, not waited for"
    if observed.stuck:
        message += f"; {len(observed.stuck)} blocked: {_with_reasons(observed.stuck)}"
    return message


def _blocked(observed: "Observed") -> dict[str, str]:
    """Return what stands in the way of coming to a node, or of leaving it."""
    coming = {name: observed.why.get(name, "") for name in observed.blocked}
    return dict(sorted({**coming, **observed.stuck}.items()))


def _degraded(observed: "Observed") -> tuple[Truth, PolicyReason, str]:
    troubled = {
        **{name: observed.why[name] for name in observed.external},
        **_blocked(observed),
        **observed.degraded,
    }
    if not troubled:
        return "False", PolicyReason.AS_EXPECTED, ""
    return "True", PolicyReason.NODES_DEGRADED, _with_reasons(dict(sorted(troubled.items())))


def _isolated(observed: "Observed") -> tuple[Truth, PolicyReason, str]:
    if observed.foreign:
        message = "processes outside the domain merge on " + _with_reasons(observed.foreign)
        return "False", PolicyReason.FOREIGN_MERGERS, message
    if not observed.reporting and observed.matched:
        return "Unknown", PolicyReason.NODES_NOT_READY, "no node says whether others merge there"
    return "True", PolicyReason.NO_FOREIGN_MERGERS, ""


def _conflicted(observed: "Observed") -> tuple[Truth, PolicyReason, str]:
    if not observed.lost:
        return "False", PolicyReason.NO_CONFLICT, ""
    return "True", PolicyReason.NODES_LOST, _lost(observed.lost)


def _lost(lost: Mapping[str, str]) -> str:
    by_winner: dict[str, list[str]] = {}
    for node, winner in sorted(lost.items()):
        by_winner.setdefault(winner, []).append(node)
    parts = [
        f"policy {winner} owns {_plural(len(names), 'node')} that this one selects: {shown(names)}"
        for winner, names in sorted(by_winner.items())[:_SHOWN]
    ]
    return "; ".join(parts) + "; change spec.nodeSelector or spec.priority"


def _invalid(policy: Policy) -> str:
    return f"this controller cannot read the policy, and changes nothing: {policy.unreadable}"


def _explained(names: Sequence[str], observed: "Observed") -> str:
    """Return the first few nodes, each with what its agent says if it stands still."""
    return _with_reasons({name: observed.why.get(name, "") for name in names})


def _with_reasons(reasons: Mapping[str, str]) -> str:
    names = list(reasons)
    parts = [f"{name}: {reasons[name]}" if reasons[name] else name for name in names[:_SHOWN]]
    rest = len(names) - _SHOWN
    return "; ".join(parts) + (f"; and {rest} more" if rest > 0 else "")


def shown(names: Sequence[str]) -> str:
    """Return the first few of many names, and how many more there are."""
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
