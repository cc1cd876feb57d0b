"""What Prometheus scrapes from the controller."""

from collections import Counter as Count
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ksm_operator.controller.facts import NodeState
from ksm_operator.controller.status import Observed

# Prometheus' text format has no place for times of making: they would be gauges of their own.
disable_created_metrics()  # type: ignore[no-untyped-call] # not annotated

REGISTRY: Final = CollectorRegistry()
RECONCILE_SECONDS: Final = Histogram(
    "ksm_operator_reconcile_seconds",
    "Time of one reconcile over all policies and nodes, writes included.",
    registry=REGISTRY,
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
ERRORS: Final = Counter(
    "ksm_operator_reconcile_errors_total",
    "Steps that failed and are tried again.",
    registry=REGISTRY,
)
ACTIONS: Final = Counter(
    "ksm_operator_node_actions_total",
    "Steps carried out on nodes.",
    ["action"],
    registry=REGISTRY,
)
LEADING: Final = Gauge(
    "ksm_operator_leading", "1 while this controller holds the Lease.", registry=REGISTRY
)
QUEUE: Final = Gauge(
    "ksm_operator_queue_depth",
    "Nodes with a step that has yet to be taken.",
    registry=REGISTRY,
)
WATCH_FAILURES: Final = Counter(
    "ksm_operator_watch_failures_total",
    "Watches that broke, were refused or fell too far behind, and were begun anew.",
    ["resource"],
    registry=REGISTRY,
)
_BUILD: Final = Gauge(
    "ksm_operator_build_info", "The controller's version.", ["version"], registry=REGISTRY
)
_BUILD.labels(version("ksm-operator")).set(1)


@dataclass(frozen=True, slots=True)
class Shown:
    """What became of one policy.

    Attributes:
        name: the policy's.
        observed: its nodes.
        status: as it is, or will be, written.
    """

    name: str
    observed: Observed
    status: Mapping[str, Any]


class _Fleet(Collector):
    """Series about nodes and policies, made when somebody asks.

    From one reconcile as a whole: gauges that are set one after the other would show a fleet half
    counted, and policies that are gone.
    """

    def __init__(self) -> None:
        self._states: Collection[NodeState] = ()
        self._policies: Collection[Shown] = ()

    def show(self, states: Collection[NodeState], policies: Collection[Shown]) -> None:
        """Show these from now on."""
        self._states, self._policies = states, policies

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        nodes = GaugeMetricFamily(
            "ksm_operator_nodes",
            "KSMNodes by the reason of their Ready condition; Unknown before the agent answered.",
            labels=["reason"],
        )
        conditions = (state.condition("Ready") for state in self._states)
        for reason, count in Count(one.reason if one else "Unknown" for one in conditions).items():
            nodes.add_metric([reason], count)
        by_policy = GaugeMetricFamily(
            "ksm_operator_policy_nodes",
            "A policy's nodes by what they do; Conflicted are those that another policy owns.",
            labels=["policy", "state"],
        )
        judged = GaugeMetricFamily(
            "ksm_operator_policy_condition",
            "1 for the present status and reason of each condition of a policy.",
            labels=["policy", "condition", "status", "reason"],
        )
        saved = GaugeMetricFamily(
            "ksm_operator_policy_saved_bytes",
            "What merging gives back on all nodes of a policy.",
            labels=["policy"],
        )
        estimated = GaugeMetricFamily(
            "ksm_operator_policy_estimated_saved_bytes",
            "What merging would give back on all nodes of a policy that observes.",
            labels=["policy"],
        )
        for one in self._policies:
            for state, names in _by_state(one.observed).items():
                by_policy.add_metric([one.name, state], len(names))
            for condition in one.status["conditions"]:
                words = [condition["type"], condition["status"], condition["reason"]]
                judged.add_metric([one.name, *words], 1)
            memory = one.status["memory"]
            saved.add_metric([one.name], memory["savedBytes"])
            if "estimatedSavedBytes" in memory:
                estimated.add_metric([one.name], memory["estimatedSavedBytes"])
        yield from (nodes, by_policy, judged, saved, estimated)


FLEET: Final = _Fleet()
REGISTRY.register(FLEET)


def _by_state(observed: Observed) -> dict[str, Collection[str]]:
    waiting = {*observed.waiting}
    return {
        "Ready": observed.ready,
        "Enrolling": [name for name in observed.pending if name not in waiting],
        "Waiting": observed.waiting,
        "NotCounted": observed.waived,
        "Blocked": observed.blocked,
        "Unsupported": observed.unsupported,
        "ExternallyManaged": observed.external,
        "Releasing": observed.releasing,
        "Conflicted": observed.lost,
    }
