"""Carries out what `nodes.decide` says, node by node, each write on what was decided on."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from ksm_operator.api import AGENT_LABEL, GROUP, VERSION
from ksm_operator.controller import facts, log, metrics
from ksm_operator.controller.cluster import KSM_NODES, NODES, Cluster, ClusterError, ConflictError
from ksm_operator.controller.facts import Node, NodeState, Policy
from ksm_operator.controller.lease import Lease
from ksm_operator.controller.nodes import Action, Verb, decide
from ksm_operator.controller.watch import Watched

_WRITERS: Final = 8
_MAX_STEPS: Final = 4
"""Steps for one node at a time: more than any hand-over needs without its agent."""
_WALK_SECONDS: Final = 5.0
"""How long no further node is begun with: then it is time to say how far all is, and to look again
at what is wanted."""

Allowed = Callable[[Action], bool]


@dataclass(frozen=True, slots=True)
class Taken:
    """A step that was carried out.

    Attributes:
        verb: the step.
        node: the node's name.
        owner_uid: the policy that the KSMNode names since.
        former_uid: the policy that it named before, None if there was none.
    """

    verb: Verb
    node: str
    owner_uid: str | None
    former_uid: str | None


@dataclass(frozen=True, slots=True)
class Walked:
    """What was done for some nodes.

    Attributes:
        taken: the steps, in order per node.
        failed: how many were refused, stale or unanswered; to be decided again.
        left: how many nodes have a step to take that was not begun with.
    """

    taken: tuple[Taken, ...]
    failed: int
    left: int


class Steps:
    """Walks nodes towards their owners.

    Args:
        cluster: where to write.
        lease: asked before every write.
        nodes: told of what was written, before the watch brings it.
        states: likewise.
        clock: seconds on a clock that only moves forward.
    """

    def __init__(
        self,
        cluster: Cluster,
        lease: Lease,
        nodes: Watched[Node],
        states: Watched[NodeState],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._lease = lease
        self._nodes = nodes
        self._states = states
        self._clock = clock

    def walk(
        self,
        nodes: Iterable[Node],
        states: Mapping[str, NodeState],
        owners: Mapping[str, Policy],
        now: datetime,
        allowed: Allowed,
    ) -> Walked:
        """Take steps that need nobody else, for a few seconds.

        What is given back goes first; then each policy gets its share.

        Args:
            nodes: the nodes to walk; others are left as they are.
            states: KSMNodes by node name.
            owners: the plan.
            now: the time of grants.
            allowed: asked before each step.

        Raises:
            LeaseLostError: this process may not write any more.
        """
        decided = (
            (node, decide(node, owners.get(node.name), states.get(node.name), now))
            for node in nodes
        )
        todo = in_turn([(node, action) for node, action in decided if action.verb != "Hold"])
        metrics.QUEUE.set(len(todo))
        if not todo:
            return Walked((), 0, 0)
        until = self._clock() + _WALK_SECONDS
        waiting = deque(todo)

        def work() -> list[Walked]:
            walked = []
            while self._clock() < until:
                try:
                    node, action = waiting.popleft()
                except IndexError:
                    break
                state, owner = states.get(node.name), owners.get(node.name)
                walked.append(
                    self._walk_one(
                        node=node, state=state, owner=owner, action=action, now=now, allowed=allowed
                    )
                )
                metrics.QUEUE.dec()
            return walked

        # Not a task for each node: most of thousands would only find that the time is over.
        with ThreadPoolExecutor(_WRITERS, thread_name_prefix="write") as pool:
            workers = [pool.submit(work) for _ in range(_WRITERS)]
        walked = [one for worker in workers for one in worker.result()]
        return Walked(
            tuple(step for one in walked for step in one.taken),
            sum(one.failed for one in walked),
            len(waiting),
        )

    def _walk_one(
        self,
        *,
        node: Node,
        state: NodeState | None,
        owner: Policy | None,
        action: Action,
        now: datetime,
        allowed: Allowed,
    ) -> Walked:
        taken: list[Taken] = []
        while action.verb != "Hold" and len(taken) < _MAX_STEPS and allowed(action):
            former = state.spec.owner if state is not None and state.spec is not None else None
            try:
                node, state = self._take(node, state, action)
            except ConflictError as error:
                log.debug("stale, deciding again", node=node.name, action=action.verb, error=error)
                return Walked(tuple(taken), 1, 0)
            except ClusterError as error:
                log.warning("step failed", node=node.name, action=action.verb, error=error)
                return Walked(tuple(taken), 1, 0)
            named = action.spec.owner if action.spec is not None else former
            taken.append(
                Taken(
                    verb=action.verb,
                    node=node.name,
                    owner_uid=named.uid if named else None,
                    former_uid=former.uid if former else None,
                )
            )
            metrics.ACTIONS.labels(action.verb).inc()
            log.info(
                "node",
                node=node.name,
                action=action.verb,
                policy=named.name if named else "",
                reason=action.reason,
            )
            action = decide(node, owner, state, now)
        return Walked(tuple(taken), 0, 0)

    def _take(
        self, node: Node, state: NodeState | None, action: Action
    ) -> tuple[Node, NodeState | None]:
        self._lease.ensure()
        if action.verb in ("Label", "Unlabel"):
            label = "true" if action.verb == "Label" else None
            metadata = {"resourceVersion": node.resource_version, "labels": {AGENT_LABEL: label}}
            raw = self._cluster.merge(f"{NODES}/{node.name}", {"metadata": metadata})
            self._nodes.learn(raw)
            return facts.node(raw), state
        if action.verb == "Delete":
            assert state is not None, "only a KSMNode that is there is deleted"
            self._cluster.delete(
                f"{KSM_NODES}/{state.name}", uid=state.uid, resource_version=state.resource_version
            )
            self._states.forget(state)
            return node, None
        assert action.spec is not None, "every other step writes a spec"
        raw = self._write(node, state, action.spec.to_api())
        self._states.learn(raw)
        return node, facts.node_state(raw)

    def _write(self, node: Node, state: NodeState | None, spec: dict[str, Any]) -> dict[str, Any]:
        if state is None:
            # Not applied: an apply would silently take over a KSMNode that is there already.
            owner = {"apiVersion": "v1", "kind": "Node", "name": node.name, "uid": node.uid}
            body = {
                "apiVersion": f"{GROUP}/{VERSION}",
                "kind": "KSMNode",
                "metadata": {"name": node.name, "ownerReferences": [owner]},
                "spec": spec,
            }
            return self._cluster.create(KSM_NODES, body)
        # Replaced whole: a merge would keep fields that the next owner does not set.
        version = {"op": "replace", "path": "/metadata/resourceVersion"}
        return self._cluster.patch(
            f"{KSM_NODES}/{state.name}",
            [
                {**version, "value": state.resource_version},
                {"op": "replace", "path": "/spec", "value": spec},
            ],
        )


def in_turn(todo: Iterable[tuple[Node, Action]]) -> list[tuple[Node, Action]]:
    """Put first steps in the order in which they are taken.

    Releases first, because others wait for them. Then one node of each owner at a time, so that a
    policy with three nodes does not wait for one with thousands.
    """
    places: Counter[str] = Counter()
    ordered = []
    for node, action in todo:
        owner = action.spec.owner.uid if action.spec is not None and action.spec.owner else ""
        ordered.append((action.verb != "Release", places[owner], node, action))
        places[owner] += 1
    ordered.sort(key=lambda one: one[:2])
    return [(node, action) for _, _, node, action in ordered]
