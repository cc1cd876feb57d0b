"""The shell around plan, nodes and status: read, decide, write while the Lease is held."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from ksm_operator.api import FINALIZER, GROUP, VERSION
from ksm_operator.controller import facts, log, metrics, quiet
from ksm_operator.controller.cluster import (
    POLICIES,
    Cluster,
    ClusterError,
    ConflictError,
    NotFoundError,
)
from ksm_operator.controller.conditions import shown
from ksm_operator.controller.events import Event, Recorder, transitions
from ksm_operator.controller.facts import Namespace, Node, NodeState, Policy
from ksm_operator.controller.lease import Lease
from ksm_operator.controller.nodes import Action
from ksm_operator.controller.plan import Plan, plan
from ksm_operator.controller.rollout import Turn, World, take_turns
from ksm_operator.controller.status import (
    Fleet,
    Observed,
    fleet,
    observe,
    patience_left,
    policy_status,
)
from ksm_operator.controller.steps import Steps, Taken
from ksm_operator.controller.watch import Watched

_TELLING_SECONDS: Final = 1.0
"""How long one reconcile writes counts and figures: a busy API server takes its time for each."""
_GRACE_LOOK_SECONDS: Final = 60.0
"""How often nodes are looked at that are not counted for a while: time alone ends that."""


@dataclass(frozen=True, slots=True)
class Caches:
    """The watched kinds."""

    nodes: Watched[Node]
    states: Watched[NodeState]
    namespaces: Watched[Namespace]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a reconcile went.

    Attributes:
        failed: steps that have to be tried again.
        taken: steps on nodes that were taken.
        left: nodes with a step to take that was not begun with.
        due: seconds until time alone changes something, None if it does not.
    """

    failed: int
    taken: int
    left: int
    due: float | None


@dataclass(frozen=True, slots=True)
class _Written:
    """The status of a policy that was written last: when, in which version, and what."""

    at: float
    version: str
    status: dict[str, Any]


class Reconciler:
    """Brings the cluster closer to the plan.

    Args:
        cluster: where to write.
        lease: asked before every write.
        caches: what is known.
        recorder: of Events.
        operator_namespace: never selected but by name.
        progressed: called before every request that a reconcile makes.
        clock: the present time, in UTC.
        monotonic: seconds on a clock that only moves forward.
    """

    def __init__(
        self,
        *,
        cluster: Cluster,
        lease: Lease,
        caches: Caches,
        recorder: Recorder,
        operator_namespace: str,
        progressed: Callable[[], None] = lambda: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._lease = lease
        self._caches = caches
        self._recorder = recorder
        self._operator_namespace = operator_namespace
        self._progressed = progressed
        self._clock = clock
        self._monotonic = monotonic
        self._policies: dict[str, Policy] = {}
        self._written: dict[str, _Written] = {}
        self._untold: list[Taken] = []
        self._failed = 0
        self._steps = Steps(cluster, lease, caches.nodes, caches.states)

    def known_version(self, name: str) -> str | None:
        """Return the resourceVersion of a policy as it was last read or written."""
        policy = self._policies.get(name)
        return policy.resource_version if policy else None

    def read_policies(self) -> None:
        """Read every policy.

        Raises:
            ClusterError: not all could be read; what was known stays.
        """
        found = (facts.policy(raw) for raw in self._cluster.items(POLICIES))
        self._policies = {policy.name: policy for policy in found}
        known = {policy.uid for policy in self._policies.values()}
        self._written = {uid: last for uid, last in self._written.items() if uid in known}

    def run(self) -> Outcome:
        """Reconcile everything once.

        Raises:
            LeaseLostError: this process may not write any more.
        """
        began = self._monotonic()
        self._failed = 0
        now = self._clock()
        nodes = self._caches.nodes.snapshot()
        states = self._caches.states.snapshot()
        held = self._owners_unknown(states.values())
        present = {name: state.owner_uid for name, state in states.items()}
        policies = self._policies.values()
        wanted = plan(policies, nodes.values(), present)
        planned, turns = take_turns(wanted, policies, World(nodes, states, now))
        for policy in {owner.uid: owner for owner in planned.owners.values()}.values():
            self._hold_deletion(policy)
        workable = [node for node in nodes.values() if present.get(node.name) not in held]
        self._greet(planned, turns, now)
        walked = self._steps.walk(workable, states, planned.owners, now, self._allowed)
        self._failed += walked.failed
        self._untold += walked.taken
        if not walked.left:
            # Not after each stretch of a long walk: each would be an Event for every policy.
            self._tell(self._untold)
            self._untold = []
        due = self._report(planned, turns, now)
        metrics.RECONCILE_SECONDS.observe(self._monotonic() - began)
        metrics.ERRORS.inc(self._failed)
        return Outcome(self._failed, len(walked.taken), walked.left, due)

    def _owners_unknown(self, states: Iterable[NodeState]) -> set[str]:
        """Return the uids of owners that were not listed, and are not known to be gone either.

        A policy that is missing from a list is asked for by name: only the answer that exactly
        this object does not exist frees its nodes.
        """
        listed = {policy.uid for policy in self._policies.values()}
        missing = {
            state.spec.owner.uid: state.spec.owner.name
            for state in states
            if state.spec is not None
            and state.spec.owner is not None
            and state.spec.owner.uid not in listed
        }
        return {uid for uid, name in missing.items() if not self._gone(name, uid)}

    def _gone(self, name: str, uid: str) -> bool:
        self._progressed()
        try:
            raw = self._cluster.get(f"{POLICIES}/{name}")
        except NotFoundError as error:
            if error.named == name:
                return True
            self._fail("cannot tell whether a policy is gone", policy=name, error=error)
            return False
        except ClusterError as error:
            self._fail("cannot tell whether a policy is gone", policy=name, error=error)
            return False
        return bool(raw["metadata"]["uid"] != uid)

    def _allowed(self, action: Action) -> bool:
        """Tell whether a step may be taken: nothing is granted before our finalizer is on."""
        self._progressed()
        if action.verb not in ("Create", "Grant") or action.spec is None:
            return True
        owner = action.spec.owner
        policy = self._policies.get(owner.name) if owner else None
        return owner is None or (policy is not None and policy.holds_deletion)

    def _tell(self, taken: Iterable[Taken]) -> None:
        """Post one Event per policy for the nodes granted, releasing and released."""
        told: dict[tuple[str | None, str], list[str]] = {}
        for step in taken:
            if step.verb in ("Create", "Grant"):
                told.setdefault((step.owner_uid, "granted"), []).append(step.node)
            if step.verb == "Release":
                told.setdefault((step.owner_uid, "releasing"), []).append(step.node)
            if step.verb in ("Grant", "Unlabel"):
                told.setdefault((step.former_uid, "released"), []).append(step.node)
        for policy in self._policies.values():
            for word in ("releasing", "released", "granted"):
                names = sorted(told.get((policy.uid, word), ()))
                if names:
                    noun = "node" if len(names) == 1 else "nodes"
                    message = f"{word} {len(names)} {noun}: {shown(names)}"
                    self._recorder.post(policy, Event("Normal", f"Nodes{word.title()}", message))

    def _greet(self, planned: Plan, turns: Mapping[str, Turn], now: datetime) -> None:
        """Answer to policies, or edits, that nobody has answered to yet.

        Walking many nodes takes a while, and an object without conditions passes for finished.
        """
        news = [
            policy
            for policy in self._policies.values()
            if policy.status.get("observedGeneration") != policy.generation
        ]
        if news:
            known = self._fleet(planned, turns)
            for policy in news:
                self._write_status(policy, self._status(policy, known, now)[1])

    def _report(self, planned: Plan, turns: Mapping[str, Turn], now: datetime) -> float | None:
        """Write what became of each policy; return the seconds to the next deadline."""
        known = self._fleet(planned, turns)
        dues = []
        told = []
        until = self._monotonic() + _TELLING_SECONDS
        for policy in sorted(self._policies.values(), key=self._written_at):
            observed, status = self._status(policy, known, now)
            told.append(metrics.Shown(policy.name, observed, status))
            dues.append(self._write_when_due(policy, status, until))
            if observed.waived:
                dues.append(_GRACE_LOOK_SECONDS)
            if policy.deleted_at is None or not policy.holds_deletion:
                continue
            patience = patience_left(policy, observed, now)
            if patience:
                dues.append(patience)
            else:
                self._let_go(policy, observed.releasing)
        metrics.FLEET.show(known.states.values(), told)
        return min((due for due in dues if due is not None), default=None)

    def _fleet(self, planned: Plan, turns: Mapping[str, Turn]) -> Fleet:
        return fleet(planned, turns, self._caches.nodes.snapshot(), self._caches.states.snapshot())

    def _status(
        self, policy: Policy, known: Fleet, now: datetime
    ) -> tuple[Observed, dict[str, Any]]:
        observed = observe(policy, known, now)
        namespaces = self._caches.namespaces.snapshot().values()
        status = policy_status(
            policy,
            observed,
            known=known,
            namespaces=namespaces,
            operator_namespace=self._operator_namespace,
            now=now,
        )
        return observed, status

    def _written_at(self, policy: Policy) -> float:
        last = self._written.get(policy.uid)
        return last.at if last is not None else float("-inf")

    def _write_when_due(self, policy: Policy, status: dict[str, Any], until: float) -> float | None:
        """Write a status, or return the seconds until it is time to; None if nothing is left.

        Counts and figures are not written any more after `until`: there is more to do.
        """
        last = self._written.get(policy.uid)
        # Somebody else's condition stays beside ours, and is no reason to write for ever.
        ours = last is not None and last.version == policy.resource_version
        before = last.status if last is not None and ours else policy.status
        wait = quiet.wait(before, status, len(self._policies))
        if wait is None:
            return None
        at = self._monotonic()
        since = at - self._written_at(policy)
        if since < wait:
            return wait - since
        if wait and at >= until:
            return quiet.COUNT_SECONDS
        self._write_status(policy, status)
        return None

    def _write_status(self, policy: Policy, status: dict[str, Any]) -> None:
        body = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "KSMPolicy",
            "metadata": {"name": policy.name, "resourceVersion": policy.resource_version},
            "status": status,
        }
        self._lease.ensure()
        raw = self._write_policy(policy, lambda path: self._cluster.apply(f"{path}/status", body))
        if raw is None:
            return
        self._written[policy.uid] = _Written(
            self._monotonic(), raw["metadata"]["resourceVersion"], status
        )
        ready = status["conditions"][0]
        say = log.info if quiet.told(policy.status, status) else log.debug
        say(
            "status",
            policy=policy.name,
            ready=ready["status"],
            reason=ready["reason"],
            nodes=status["nodes"]["summary"],
            pods=status["pods"]["summary"],
            saved=status["memory"]["saved"],
        )
        for event in transitions(policy.status, status):
            self._recorder.post(policy, event)

    def _hold_deletion(self, policy: Policy) -> None:
        if policy.holds_deletion:
            return
        self._patch_finalizers(policy, [*policy.finalizers, FINALIZER])

    def _let_go(self, policy: Policy, left: Sequence[str]) -> None:
        present = self._policies[policy.name]
        kept = [finalizer for finalizer in present.finalizers if finalizer != FINALIZER]
        self._patch_finalizers(present, kept)
        if left:
            log.warning("policy let go, nodes still release", policy=policy.name, nodes=len(left))
        else:
            log.info("policy let go, every live node is released", policy=policy.name)

    def _patch_finalizers(self, policy: Policy, finalizers: list[str]) -> None:
        metadata = {"resourceVersion": policy.resource_version, "finalizers": finalizers}
        self._lease.ensure()
        self._write_policy(policy, lambda path: self._cluster.merge(path, {"metadata": metadata}))

    def _write_policy(
        self, policy: Policy, write: Callable[[str], dict[str, Any]]
    ) -> dict[str, Any] | None:
        self._progressed()
        try:
            raw = write(f"{POLICIES}/{policy.name}")
        except NotFoundError:
            return None
        except ConflictError as error:
            log.debug("stale, reading again", policy=policy.name, error=error)
            self._failed += 1
            return None
        except ClusterError as error:
            self._fail("policy not written", policy=policy.name, error=error)
            return None
        self._policies[policy.name] = facts.policy(raw)
        return raw

    def _fail(self, message: str, **fields: Any) -> None:
        log.warning(message, **fields)
        self._failed += 1
