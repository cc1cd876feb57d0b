"""What ksmd did since boot, by the kernel's own counters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from ksm_operator.kernel import KsmValues, page_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client import CollectorRegistry, Metric

COUNTERS: Final[tuple[tuple[str, str, Callable[[KsmValues], int | None]], ...]] = (
    (
        "ksm_node_pages_scanned",
        "Pages that ksmd looked at since boot.",
        lambda values: values.pages_scanned,
    ),
    (
        "ksm_node_pages_skipped",
        "Pages that the smart scan left out since boot.",
        lambda values: values.pages_skipped,
    ),
    (
        "ksm_node_full_scans",
        "Times since boot that ksmd went over all mergeable memory.",
        lambda values: values.full_scans,
    ),
)


class ScanSeries(Collector):
    """Series without a sample where this kernel has no such counter."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._values = KsmValues()
        registry.register(self)

    def show(self, values: KsmValues) -> None:
        """Show these from now on."""
        self._values = values

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        values = self._values
        zero = GaugeMetricFamily(
            "ksm_node_zero_pages_bytes",
            "The part of ksm_node_saved_bytes that were pages of zeroes.",
        )
        if values.ksm_zero_pages is not None:
            zero.add_metric((), values.ksm_zero_pages * page_size())
        yield zero
        for name, text, value_of in COUNTERS:
            family = CounterMetricFamily(name, text)
            value = value_of(values)
            if value is not None:
                family.add_metric((), value)
            yield family
