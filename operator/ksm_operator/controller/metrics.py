"""What Prometheus scrapes from the controller."""

from collections import Counter as Count
from collections.abc import Iterable
from importlib.metadata import version
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ksm_operator.controller.facts import NodeState

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
_NODES: Final = Gauge(
    "ksm_operator_nodes",
    "KSMNodes by the reason of their Ready condition; Unknown until the agent has answered.",
    ["reason"],
    registry=REGISTRY,
)
_BUILD: Final = Gauge(
    "ksm_operator_build_info", "The controller's version.", ["version"], registry=REGISTRY
)
_BUILD.labels(version("ksm-operator")).set(1)


def count_nodes(states: Iterable[NodeState]) -> None:
    """Set the nodes by state."""
    conditions = (state.condition("Ready") for state in states)
    counts = Count(condition.reason if condition else "Unknown" for condition in conditions)
    _NODES.clear()
    for reason, count in counts.items():
        _NODES.labels(reason).set(count)
