"""What a reconcile decides, as pure functions over the real objects, without any request."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from benchmarks.controller import chart, observer, population
from benchmarks.figures import Row
from ksm_operator.controller import facts
from ksm_operator.controller.nodes import decide
from ksm_operator.controller.plan import plan
from ksm_operator.controller.rollout import World, take_turns
from ksm_operator.controller.status import fleet, observe, policy_status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.controller.client import Client
    from ksm_operator.controller.facts import Namespace, Node, NodeState, Policy

RUNS: Final = 9
T = TypeVar("T")


class _Stopwatch:
    """Times of the steps, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def time(self, what: str, call: Callable[[], T]) -> T:
        """Call and note how long it took."""
        began = time.perf_counter()
        result = call()
        self.seconds.setdefault(what, []).append(time.perf_counter() - began)
        return result


def measure(client: Client) -> list[Row]:
    """Return what each decision takes, and all of them together, last."""
    watch = _Stopwatch()
    raw_nodes = _objects(client, population.NODES)
    raw_states = _objects(client, observer.KSM_NODES)
    nodes = {one.name: one for one in watch.time("read nodes", lambda: _all(facts.node, raw_nodes))}
    states = {
        one.name: one
        for one in watch.time("read KSMNodes", lambda: _all(facts.node_state, raw_states))
    }
    namespaces = _all(facts.namespace, _objects(client, population.NAMESPACES))
    policies = _all(facts.policy, _objects(client, observer.POLICIES))
    for _ in range(RUNS):
        _decide(watch, nodes, states, namespaces, policies)
    rows = [
        Row(what, [1000 * one for one in seconds], "ms") for what, seconds in watch.seconds.items()
    ]
    whole = [sum(one) for one in zip(*(row.values for row in rows[2:]), strict=True)]
    return [*rows, Row("full plan: all but the reading", whole, "ms")]


def _decide(
    watch: _Stopwatch,
    nodes: Mapping[str, Node],
    states: Mapping[str, NodeState],
    namespaces: Sequence[Namespace],
    policies: Sequence[Policy],
) -> None:
    """All that one reconcile decides where nothing is to be written."""
    now = datetime.now(UTC)
    present = {name: state.owner_uid for name, state in states.items()}
    wanted = watch.time("plan", lambda: plan(policies, nodes.values(), present))
    world = World(nodes, states, now)
    planned, turns = watch.time("turns", lambda: take_turns(wanted, policies, world))
    watch.time(
        "next step of each node",
        lambda: [
            decide(node, planned.owners.get(name), states.get(name), now)
            for name, node in nodes.items()
        ],
    )
    known = watch.time("nodes by policy", lambda: fleet(planned, turns, nodes, states))
    watch.time(
        "status of each policy",
        lambda: [
            policy_status(
                policy,
                observe(policy, known, now),
                known=known,
                namespaces=namespaces,
                operator_namespace=chart.NAMESPACE,
                now=now,
            )
            for policy in policies
        ],
    )


def _objects(client: Client, path: str) -> list[dict[str, Any]]:
    return [msgspec.json.decode(one) for one in client.list(path)[0]]


def _all(read: Callable[[dict[str, Any]], T], objects: list[dict[str, Any]]) -> list[T]:
    return [read(one) for one in objects]
