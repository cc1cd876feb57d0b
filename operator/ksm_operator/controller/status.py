"""What all nodes together make of a policy: counts, figures and conditions for its status."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from ksm_operator.api import (
    Condition,
    KSMPolicySpec,
    KSMPolicyStatus,
    LabelSelector,
    NamespaceSummary,
    NodeCounts,
    NodeReason,
    PodCounts,
    PolicyMemory,
    PolicyReason,
)
from ksm_operator.controller.conditions import judge
from ksm_operator.controller.facts import Namespace, Node, NodeState, Policy, written
from ksm_operator.controller.plan import Plan
from ksm_operator.controller.progress import (
    STANDING_STILL,
    Progress,
    degradation,
    in_words,
    progress,
)
from ksm_operator.controller.rollout import Turn

_NAMES: Final = 50
_DELETION_PATIENCE: Final = timedelta(minutes=10)
_PROTECTED_PREFIXES: Final = ("kube-", "openshift-")
_UNITS: Final = ("", "Ki", "Mi", "Gi", "Ti", "Pi")


@dataclass(frozen=True, slots=True)
class Observed:
    """What a policy's nodes do, by name and in order of their names.

    Attributes:
        matched: every node that the policy selects, and that it owns or lost.
        ready: do what the policy asks.
        pending: not there yet, and reachable; those that `waiting` names have not been asked.
        waived: not there yet, but not to be waited for: unreachable, going, or just joined.
        blocked: something stands in the way.
        unsupported: the kernel or the machine cannot.
        external: KSM is in somebody else's hands.
        why: name of a node that stands still to what its agent says about it.
        degraded: node name to what the agent says is not as asked.
        foreign: node name to what the agent says of foreign mergers.
        reporting: nodes that told whether foreign processes merge.
        releasing: still hold pages merged by this policy and give them back.
        unreachable: of those releasing, the ones that nobody can hear of now.
        stuck: of those releasing, the ones that cannot go on, with what their agents say.
        lost: node name to the policy that owns it instead.
        waiting: of those pending, the ones whose turn in the rollout has not come.
        absent: nodes that have begun and cannot be heard of, which hold up those that wait.
        stopped: why it does not come: node name to what its agent says is not as asked.
        to_release: of a policy that is being deleted, how many nodes it had to release in all.
    """

    matched: tuple[str, ...]
    ready: tuple[str, ...]
    pending: tuple[str, ...]
    waived: tuple[str, ...]
    blocked: tuple[str, ...]
    unsupported: tuple[str, ...]
    external: tuple[str, ...]
    why: Mapping[str, str]
    degraded: Mapping[str, str]
    foreign: Mapping[str, str]
    reporting: int
    releasing: tuple[str, ...]
    unreachable: tuple[str, ...]
    stuck: Mapping[str, str]
    lost: Mapping[str, str]
    waiting: tuple[str, ...]
    absent: tuple[str, ...]
    stopped: Mapping[str, str]
    to_release: int


@dataclass(frozen=True, slots=True)
class Fleet:
    """Everything known of nodes, sorted once by policy so that many policies stay cheap.

    Attributes:
        nodes: by name.
        states: KSMNodes by name.
        plan: who owns what.
        turns: which nodes a policy may not take yet, by its uid.
        owned: policy uid to the nodes that it owns or waits for, sorted.
        held: policy uid to the KSMNodes that name it as owner or as enrolled, sorted.
    """

    nodes: Mapping[str, Node]
    states: Mapping[str, NodeState]
    plan: Plan
    turns: Mapping[str, Turn]
    owned: Mapping[str, list[str]]
    held: Mapping[str, list[NodeState]]


def fleet(
    plan: Plan,
    turns: Mapping[str, Turn],
    nodes: Mapping[str, Node],
    states: Mapping[str, NodeState],
) -> Fleet:
    """Sort what is known of nodes by policy."""
    owned = {uid: list(turn.waiting) for uid, turn in turns.items()}
    for name, owner in plan.owners.items():
        owned.setdefault(owner.uid, []).append(name)
    for names in owned.values():
        names.sort()
    held: dict[str, list[NodeState]] = {}
    for name in sorted(states):
        state = states[name]
        for uid in {state.owner_uid, state.enrolled_uid} - {None}:
            held.setdefault(str(uid), []).append(state)
    return Fleet(nodes, states, plan, turns, owned, held)


def observe(policy: Policy, known: Fleet, now: datetime) -> Observed:
    """Sort a policy's nodes by what they report."""
    nodes = known.nodes
    lost = known.plan.lost.get(policy.uid, {})
    # A node may be gone since the plan was made.
    turn = known.turns.get(policy.uid, Turn())
    waiting = frozenset(turn.waiting)
    owned = [name for name in known.owned.get(policy.uid, ()) if name in nodes]
    kinds: dict[Progress, list[str]] = {}
    why: dict[str, str] = {}
    degraded: dict[str, str] = {}
    foreign: dict[str, str] = {}
    reporting = 0
    for name in owned:
        state = known.states.get(name)
        # A node whose turn has not come may have another owner, whose agent's words are no answer.
        mine = state if name not in waiting else None
        kind = progress(policy, nodes[name], mine, now)
        kinds.setdefault(kind, []).append(name)
        ready = mine.condition("Ready") if mine is not None else None
        if ready is not None and kind in STANDING_STILL.values():
            why[name] = in_words(ready)
        if state is None or state.owner_uid != policy.uid:
            continue
        if bad := degradation(state):
            degraded[name] = bad
        isolated = state.condition("Isolated")
        reporting += isolated is not None and isolated.status != "Unknown"
        if isolated is not None and isolated.status == "False":
            foreign[name] = isolated.message
    held = known.held.get(policy.uid, ())
    giving_back = [state for state in held if gives_back(policy, state)]
    releasing = [state.name for state in giving_back]
    unreachable = [n for n in releasing if n not in nodes or not nodes[n].ready]
    return Observed(
        matched=tuple(sorted({*owned, *lost})),
        ready=tuple(kinds.get("ready", ())),
        pending=tuple(kinds.get("pending", ())),
        waived=tuple(kinds.get("waived", ())),
        blocked=tuple(kinds.get("blocked", ())),
        unsupported=tuple(kinds.get("unsupported", ())),
        external=tuple(kinds.get("external", ())),
        why=why,
        degraded=degraded,
        foreign=foreign,
        reporting=reporting,
        releasing=tuple(releasing),
        unreachable=tuple(unreachable),
        stuck=_stuck(giving_back, but=unreachable),
        lost=lost,
        waiting=tuple(name for name in kinds.get("pending", ()) if name in waiting),
        absent=tuple(name for name in turn.begun if name in nodes and not nodes[name].ready),
        stopped=turn.stopped,
        to_release=_to_release(policy, len(releasing)),
    )


def _stuck(releasing: Iterable[NodeState], but: Collection[str]) -> dict[str, str]:
    """Return the nodes whose release cannot go on, and why, but for those of `but`."""
    found = ((state.name, state.condition("Ready")) for state in releasing)
    return {
        name: in_words(ready)
        for name, ready in found
        if ready is not None and ready.reason == NodeReason.BLOCKED and name not in but
    }


def _to_release(policy: Policy, left: int) -> int:
    """Return how many nodes a deleted policy had: its last status still says it."""
    if policy.deleted_at is None:
        return 0
    before = policy.status.get("nodes", {}).get("matched", 0)
    return max(int(before), left)


def gives_back(policy: Policy, state: NodeState) -> bool:
    """Tell whether a node still has to give back what this policy merged."""
    if state.spec is None or state.released:
        return False
    if policy.deleted_at is not None:
        return policy.uid in (state.owner_uid, state.enrolled_uid)
    leaving = state.asked_to_release and state.owner_uid == policy.uid
    return leaving or (policy.uid == state.enrolled_uid != state.owner_uid)


def patience_left(policy: Policy, observed: Observed, now: datetime) -> float:
    """Return for how many seconds a deleted policy still has to wait for its nodes, 0 for none.

    Unreachable nodes are not waited for, and no node for longer than ten minutes: the KSMNodes
    carry the release on.
    """
    if policy.deleted_at is None or set(observed.releasing) <= set(observed.unreachable):
        return 0.0
    return max(0.0, (policy.deleted_at + _DELETION_PATIENCE - now).total_seconds())


def policy_status(
    policy: Policy,
    observed: Observed,
    *,
    known: Fleet,
    namespaces: Iterable[Namespace],
    operator_namespace: str,
    now: datetime,
) -> dict[str, Any]:
    """Return the whole status of a policy, in the API server's form."""
    held = known.held.get(policy.uid, ())
    mine = [
        state.status for state in held if policy.uid in (state.enrolled_uid, state.observing_uid)
    ]
    matched = sum(status.pods_matched for status in mine)
    merging = sum(status.pods_merging for status in mine)
    skipped = sum(status.pods_skipped for status in mine)
    saved = sum(status.saved_bytes or 0 for status in mine)
    profits = [status.profit_bytes for status in mine if status.profit_bytes is not None]
    estimated, estimated_error = _estimated(policy, held)
    cpu = [status.ksmd_milli_cpu for status in mine if status.ksmd_milli_cpu is not None]
    pods = PodCounts(
        matched=matched, merging=merging, skipped=skipped, summary=f"{merging}/{matched}"
    )
    names = selected_namespaces(policy.spec, namespaces, operator_namespace)
    conditions = [
        Condition.model_validate(condition) for condition in policy.status.get("conditions", ())
    ]
    matched_nodes = observed.to_release or len(observed.matched)
    status = KSMPolicyStatus(
        observed_generation=policy.generation,
        nodes=NodeCounts(
            matched=matched_nodes,
            ready=len(observed.ready),
            releasing=len(observed.releasing),
            blocked=len(observed.blocked),
            unsupported=len(observed.unsupported),
            externally_managed=len(observed.external),
            conflicted=len(observed.lost),
            summary=f"{len(observed.ready)}/{matched_nodes}",
        ),
        pods=pods,
        memory=PolicyMemory(
            saved_bytes=saved,
            profit_bytes=sum(profits) if profits else None,
            estimated_saved_bytes=estimated,
            estimated_saved_error_bytes=estimated_error,
            saved=human_bytes(saved) if estimated is None else f"~{human_bytes(estimated)}",
        ),
        ksmd_milli_cpu=sum(cpu) if cpu else None,
        namespaces=NamespaceSummary(count=len(names), names=tuple(names[:_NAMES])),
        conditions=judge(
            policy,
            observed,
            pods=pods,
            estimate=_in_words(estimated, estimated_error),
            namespaces=len(names),
            before=conditions,
            now=now,
        ),
    )
    return status.to_api()


def _estimated(policy: Policy, held: Iterable[NodeState]) -> tuple[int | None, int | None]:
    """Return what merging would give back on the nodes that have looked, and the error of that.

    Errors are added up: what changes in one node's pods does so in their replicas on others.
    """
    looked = [
        state.status
        for state in held
        if state.observing_uid == policy.uid and state.status.estimated_bytes is not None
    ]
    if not looked:
        return None, None
    return (
        sum(status.estimated_bytes or 0 for status in looked),
        sum(status.estimated_error_bytes or 0 for status in looked),
    )


def _in_words(estimated: int | None, error: int | None) -> str:
    """Return an estimate for people, empty for none."""
    if estimated is None:
        return ""
    return f"about {human_bytes(estimated)}, give or take {human_bytes(error or 0)}"


def uninstalled_status(policy: Policy, now: datetime) -> dict[str, Any]:
    """Return the status of a policy that no operator looks after any more: no counts, one word."""
    ready = Condition(
        type="Ready",
        status="Unknown",
        reason=str(PolicyReason.UNINSTALLED),
        message="the operator was uninstalled and every node released: nothing merges. "
        "Install it again, or delete this policy",
        observed_generation=policy.generation,
        last_transition_time=written(now),
    )
    return {"observedGeneration": policy.generation, "conditions": [ready.to_api()]}


def selected_namespaces(
    spec: KSMPolicySpec | None, namespaces: Iterable[Namespace], operator_namespace: str
) -> list[str]:
    """Return the names of the namespaces that exist and form the security domain, sorted.

    System namespaces and the operator's own are selected only by name.
    """
    if spec is None:
        return []
    if spec.namespaces is not None:
        wanted = set(spec.namespaces)
        return sorted(namespace.name for namespace in namespaces if namespace.name in wanted)
    selector = spec.namespace_selector or LabelSelector()
    if selector.empty:
        return []
    return sorted(
        namespace.name
        for namespace in namespaces
        if namespace.name != operator_namespace
        and not namespace.name.startswith(_PROTECTED_PREFIXES)
        and selector.admits(namespace.labels)
    )


def human_bytes(count: int) -> str:
    """Return bytes for people: ``0``, ``512``, ``3.4Gi``, ``120Mi``."""
    value, power = float(abs(count)), 0
    while value >= 1000 and power < len(_UNITS) - 1:  # noqa: PLR2004 - four digits are too many
        value, power = value / 1024, power + 1
    digits = f"{value:.0f}" if power == 0 or value >= 9.95 else f"{value:.1f}"  # noqa: PLR2004
    return f"{'-' if count < 0 else ''}{digits}{_UNITS[power]}"
