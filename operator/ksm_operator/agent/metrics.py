"""What Prometheus reads: one set of series per node, and one per container where asked for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    disable_created_metrics,
    generate_latest,
)

from ksm_operator.agent.container_series import ContainerSeries
from ksm_operator.agent.guard_metrics import GuardMetrics
from ksm_operator.agent.scan_series import ScanSeries
from ksm_operator.agent.visit_series import VisitSeries

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ksm_operator.kernel import Estimate

ENROL_BUCKETS: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0)

# Prometheus' text format has no place for times of making: they would be gauges of their own.
disable_created_metrics()  # type: ignore[no-untyped-call] # not annotated


class Metrics:
    """The agent's series, in a registry of their own."""

    def __init__(self, version: str, *, per_container: bool = False) -> None:
        self.registry = CollectorRegistry()
        self.scan = ScanSeries(self.registry)
        self.visits = VisitSeries(self.registry)
        self.each_container = ContainerSeries(self.registry) if per_container else None
        info = Info("ksm_agent_build", "Version of the agent.", registry=self.registry)
        info.info({"version": version})
        self.saved = Gauge(
            "ksm_node_saved_bytes",
            "Memory given back by merging on this node, each kept page counted once.",
            registry=self.registry,
        )
        self.profit = Gauge(
            "ksm_node_profit_bytes",
            "Memory given back less the kernel's own cost of merging; may be negative; NaN where "
            "the kernel does not tell (before 6.4).",
            registry=self.registry,
        )
        self._phantom = Gauge(
            "ksm_node_phantom_bytes",
            "Merged pages charged to cgroups that no longer map them; NaN where not measured.",
            registry=self.registry,
        )
        self._phantom_error = Gauge(
            "ksm_node_phantom_error_bytes",
            "Most that sampling puts ksm_node_phantom_bytes out by, 95 times in 100; NaN where not "
            "measured.",
            registry=self.registry,
        )
        self.show_phantom(None)
        self._estimated = Gauge(
            "ksm_node_estimated_saved_bytes",
            "What merging would give back; NaN while nobody observes.",
            registry=self.registry,
        )
        self._estimated_error = Gauge(
            "ksm_node_estimated_saved_error_bytes",
            "How far the estimate may be off; NaN while nobody observes.",
            registry=self.registry,
        )
        self.observed(None)
        self._ksmd_cpu = Counter(
            "ksm_node_ksmd_cpu_seconds",
            "CPU time that ksmd used since boot.",
            registry=self.registry,
        )
        self._ksmd_cpu_ns = 0
        self.processes = Gauge(
            "ksm_node_enrolled_processes", "Processes enrolled now.", registry=self.registry
        )
        self.containers = Gauge(
            "ksm_node_enrolled_containers",
            "Containers with enrolled processes now.",
            registry=self.registry,
        )
        self.skipped = Gauge(
            "ksm_node_skipped_processes",
            "Processes of selected pods that are left alone, by reason.",
            ["reason"],
            registry=self.registry,
        )
        self._reasons: frozenset[str] = frozenset()
        self.foreign = Gauge(
            "ksm_node_foreign_mergers",
            "Processes outside of the domain that asked for merging by themselves.",
            registry=self.registry,
        )
        self._broken = Counter(
            "ksm_node_foreign_mergings",
            "Times that processes outside of the domain began to merge after none had.",
            registry=self.registry,
        )
        self._broken_times = 0
        self.enrol_seconds = Histogram(
            "ksm_agent_enrol_duration_seconds",
            "Time that the enrolment of one process took; the mean of those enrolled together.",
            buckets=ENROL_BUCKETS,
            registry=self.registry,
        )
        self.released = Counter(
            "ksm_agent_released_processes", "Processes released.", registry=self.registry
        )
        self._helper_deaths = Counter(
            "ksm_agent_helper_deaths",
            "Times that the process which traces had to be started anew.",
            registry=self.registry,
        )
        self._deaths = 0
        self.guard = GuardMetrics(self.registry)
        self.errors = Counter(
            "ksm_agent_errors",
            "Failures, by what failed.",
            ["operation"],
            registry=self.registry,
        )

    def ksmd_used(self, cpu_ns: int) -> None:
        """Show ksmd's CPU time since boot."""
        self._ksmd_cpu.inc(max(0, cpu_ns - self._ksmd_cpu_ns) / 1e9)
        self._ksmd_cpu_ns = max(cpu_ns, self._ksmd_cpu_ns)

    def show_phantom(self, found: Estimate | None) -> None:
        """Show the phantom charge of the node."""
        self._phantom.set(math.nan if found is None else found.size)
        self._phantom_error.set(math.nan if found is None else found.error)

    def observed(self, saved: Estimate | None) -> None:
        """Show what merging would give back."""
        self._estimated.set(math.nan if saved is None else saved.size)
        self._estimated_error.set(math.nan if saved is None else saved.error)

    def helper_died(self, times: int) -> None:
        """Show how often the helper process died since the agent started."""
        self._helper_deaths.inc(max(0, times - self._deaths))
        self._deaths = max(times, self._deaths)

    def isolation_was_broken(self, times: int) -> None:
        """Show how often isolation was broken since the agent started."""
        self._broken.inc(max(0, times - self._broken_times))
        self._broken_times = max(times, self._broken_times)

    def count_skipped(self, skipped: Mapping[str, int]) -> None:
        """Show these reasons and no other."""
        # A scrape may come at any moment: what goes on is never missing from it.
        for reason, count in skipped.items():
            self.skipped.labels(reason).set(count)
        for reason in self._reasons.difference(skipped):
            self.skipped.remove(reason)
        self._reasons = frozenset(skipped)

    def exposition(self) -> bytes:
        """Return the text that Prometheus scrapes."""
        return generate_latest(self.registry)
