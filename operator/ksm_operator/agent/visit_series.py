"""What the visits to processes cost them: how long a thread of theirs stood still."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import Counter, Histogram

from ksm_operator.kernel import KernelError, Postponed

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from ksm_operator.kernel import Visit

STOP_BUCKETS: Final = (5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 5e-2, 0.25)


class VisitSeries:
    """Counts every visit of the helper process, whatever it was for."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._stopped = Histogram(
            "ksm_agent_injection_stop_seconds",
            "Time for which one thread of a process stood still while it made system calls for us.",
            buckets=STOP_BUCKETS,
            registry=registry,
        )
        self._failed = Counter(
            "ksm_agent_injections_failed",
            "Injections that came to nothing, by reason; most are tried again.",
            ["reason"],
            registry=registry,
        )

    def count(self, answer: Visit | KernelError) -> None:
        """Take what became of one visit."""
        if isinstance(answer, Postponed):
            self._failed.labels(answer.reason).inc()
        elif isinstance(answer, KernelError):
            self._failed.labels(type(answer).__name__).inc()
        else:
            self._stopped.observe(answer.stopped_ns / 1e9)
