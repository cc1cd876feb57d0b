"""Series for each container and pod, for who asks: a node of 110 pods has some 2,000 more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from prometheus_client import CollectorRegistry, Metric

    from ksm_operator.agent.containers_survey import ContainerFigures, PodFigures
    from ksm_operator.agent.wire import ObjectMeta

LABELS: Final = ("namespace", "pod", "uid", "container_id")

SERIES: Final[tuple[tuple[str, str, Callable[[ContainerFigures], float | None]], ...]] = (
    (
        "ksm_container_unmerged_bytes",
        "What the container would use without merging; too much where its processes forked.",
        lambda one: one.unmerged.size,
    ),
    (
        "ksm_container_unmerged_error_bytes",
        "Most that sampling puts ksm_container_unmerged_bytes out by, 95 times in 100.",
        lambda one: one.unmerged.error,
    ),
    (
        "ksm_container_merged_bytes",
        "Mappings of merged pages by the container's processes.",
        lambda one: one.share.merged.size,
    ),
    (
        "ksm_container_unpaid_bytes",
        "Merged pages that the container maps and another cgroup is charged for.",
        lambda one: one.share.unpaid.size,
    ),
    (
        "ksm_container_phantom_bytes",
        "Merged pages that the container is charged for and only others map.",
        lambda one: one.share.phantom.size,
    ),
    (
        "ksm_container_phantom_error_bytes",
        "Most that sampling puts ksm_container_phantom_bytes out by, 95 times in 100.",
        lambda one: one.share.phantom.error,
    ),
    (
        "ksm_container_watched_pages",
        "Pages of the container that ksmd keeps a record of.",
        lambda one: one.watched_pages,
    ),
    (
        "ksm_container_profit_bytes",
        "Saved by the container's processes, as the kernel counts it; may be negative.",
        lambda one: one.profit_bytes,
    ),
    (
        "ksm_container_survey_timestamp_seconds",
        "When the container's figures were taken, in seconds since the epoch.",
        lambda one: one.at,
    ),
)


POD_LABELS: Final = ("namespace", "pod", "uid")

POD_SERIES: Final[tuple[tuple[str, str, Callable[[PodFigures], float]], ...]] = (
    (
        "ksm_pod_phantom_bytes",
        "Merged pages charged to the pod, left by ended containers too, that only others map.",
        lambda one: one.phantom.size,
    ),
    (
        "ksm_pod_phantom_error_bytes",
        "Most that sampling puts ksm_pod_phantom_bytes out by, 95 times in 100.",
        lambda one: one.phantom.error,
    ),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One container.

    Attributes:
        labels: in the order of `LABELS`.
        figures: of it.
    """

    labels: tuple[str, ...]
    figures: ContainerFigures


def rows(
    figures: Collection[ContainerFigures],
    running: Collection[str],
    pods: Mapping[str, ObjectMeta],
) -> tuple[Row, ...]:
    """Return what is to be shown: containers that still run, of pods whose names are known.

    Args:
        figures: of the last survey.
        running: cgroup paths of the containers that exist now.
        pods: what is known of them, by the uid in their cgroups' names.
    """
    return tuple(
        Row((pod.namespace, pod.name, one.placement.pod_uid, one.placement.container_id), one)
        for one in figures
        if one.placement.container_path in running
        and one.placement.container_id is not None
        and (pod := pods.get(one.placement.pod_uid)) is not None
    )


@dataclass(frozen=True, slots=True)
class PodRow:
    """One pod.

    Attributes:
        labels: in the order of `POD_LABELS`.
        figures: of it.
    """

    labels: tuple[str, ...]
    figures: PodFigures


def pod_rows(figures: Collection[PodFigures], pods: Mapping[str, ObjectMeta]) -> tuple[PodRow, ...]:
    """Return what is to be shown: pods whose names are known; arguments as of `rows`."""
    return tuple(
        PodRow((pod.namespace, pod.name, one.uid), one)
        for one in figures
        if (pod := pods.get(one.uid)) is not None
    )


class ContainerSeries(Collector):
    """Shows the containers and pods of the last survey, as a whole, and none that is gone."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._rows: tuple[Row, ...] = ()
        self._pods: tuple[PodRow, ...] = ()
        registry.register(self)

    def show(self, rows: tuple[Row, ...], pods: tuple[PodRow, ...]) -> None:
        """Show these from now on, and no other."""
        self._rows, self._pods = rows, pods

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        shown, pods = self._rows, self._pods
        for name, text, value_of in SERIES:
            family = GaugeMetricFamily(name, text, labels=LABELS)
            for row in shown:
                value = value_of(row.figures)
                if value is not None:
                    family.add_metric(row.labels, value)
            yield family
        for name, text, value_of_pod in POD_SERIES:
            family = GaugeMetricFamily(name, text, labels=POD_LABELS)
            for one in pods:
                family.add_metric(one.labels, value_of_pod(one.figures))
            yield family
