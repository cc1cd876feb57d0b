"""What Prometheus reads of the guard and of merge debt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import CollectorRegistry

    from ksm_operator.agent.debt import Debt
    from ksm_operator.kernel.guard_plan import Exposed


class GuardMetrics:
    """Series of one node."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._debt = Gauge(
            "ksm_node_merge_debt_bytes",
            "What the node would need if all merged pages came apart at once.",
            registry=registry,
        )
        self._debt_limit = Gauge(
            "ksm_node_merge_debt_limit_bytes",
            "Merge debt above which ksmd is stopped.",
            registry=registry,
        )
        self._exposed = Gauge(
            "ksm_node_exposed_cgroups",
            "Cgroups without room for all that they had merged, by whether others cause it.",
            ["cause"],
            registry=registry,
        )
        self.looks = Counter(
            "ksm_agent_guard_looks",
            "Looks at who pays for merged pages and has room for it.",
            registry=registry,
        )
        self.cpu_seconds = Counter(
            "ksm_agent_guard_cpu_seconds",
            "CPU time of the agent for these looks and what followed.",
            registry=registry,
        )
        self.actions = Counter(
            "ksm_agent_guard_actions",
            "Processes that were made to give merged pages back for a cgroup that pays for them.",
            registry=registry,
        )
        self.given_back = Counter(
            "ksm_agent_guard_given_back_bytes",
            "Merged memory that became a process's own in that way.",
            registry=registry,
        )

    def show_debt(self, debt: Debt) -> None:
        """Show the debt of the node."""
        self._debt.set(debt.size)
        self._debt_limit.set(debt.limit)

    def show_exposed(self, exposed: Iterable[Exposed]) -> None:
        """Show how many cgroups lack room, of the last look."""
        counts = {"Sharing": 0, "Own": 0}
        for one in exposed:
            counts["Sharing" if one.shared_bytes else "Own"] += 1
        for cause, count in counts.items():
            self._exposed.labels(cause).set(count)
