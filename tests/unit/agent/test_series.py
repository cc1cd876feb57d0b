"""Series that are made when somebody asks: of ksmd, of visits, and of containers."""

from collections.abc import Iterable

from ksm_operator.agent.container_series import pod_rows, rows
from ksm_operator.agent.containers_survey import ContainerFigures, PodFigures, counted
from ksm_operator.agent.metrics import Metrics
from ksm_operator.agent.placement import Placement
from ksm_operator.agent.wire import ObjectMeta
from ksm_operator.kernel import (
    Estimate,
    KernelError,
    KsmStat,
    KsmValues,
    Postponed,
    Share,
    Visit,
    page_size,
)

UID = "11111111-2222-3333-4444-555555555555"
HERE = Placement(UID, "a" * 64, f"/kubepods/pod{UID}/{'a' * 64}")
PODS = {UID: ObjectMeta(name="web-0", namespace="shop", uid=UID)}
LABELS = f'container_id="{"a" * 64}",namespace="shop",pod="web-0",uid="{UID}"'


def figures(placement: Placement = HERE, profit: int | None = -7) -> ContainerFigures:
    """A container's."""
    share = Share(Estimate(30, 1), Estimate(10, 1), Estimate(20, 1), Estimate(5, 2))
    return ContainerFigures(placement, 1000.0, share, Estimate(115, 3), 12, profit)


def scraped(metrics: Metrics) -> list[str]:
    """The samples."""
    return metrics.exposition().decode().splitlines()


def shown(metrics: Metrics, found: Iterable[ContainerFigures], running: Iterable[str]) -> str:
    """What is read of the containers."""
    assert metrics.each_container is not None
    metrics.each_container.show(rows(tuple(found), set(running), PODS), ())
    return "\n".join(line for line in scraped(metrics) if line.startswith("ksm_container_"))


def test_a_container_by_name() -> None:
    """Who sizes pods knows them by namespace and name."""
    text = shown(Metrics("1", per_container=True), [figures()], [HERE.container_path])
    for name, value in (
        ("unmerged_bytes", "115.0"),
        ("unmerged_error_bytes", "3.0"),
        ("merged_bytes", "30.0"),
        ("unpaid_bytes", "20.0"),
        ("phantom_bytes", "5.0"),
        ("phantom_error_bytes", "2.0"),
        ("watched_pages", "12.0"),
        ("profit_bytes", "-7.0"),
        ("survey_timestamp_seconds", "1000.0"),
    ):
        assert f"ksm_container_{name}{{{LABELS}}} {value}" in text


def test_what_is_gone_is_not_shown() -> None:
    """Prometheus would keep the last figure of a container that ended; pods come and go."""
    metrics = Metrics("1", per_container=True)
    assert shown(metrics, [figures()], [HERE.container_path])
    assert shown(metrics, [figures()], []) == ""
    stranger = Placement("other", "b" * 64, "/b")
    assert shown(metrics, [figures(stranger)], ["/b"]) == "", "nobody knows its name"


def test_a_pod_pays_for_containers_that_have_ended() -> None:
    """No container has that charge any more, and its pod's limit is what it counts against."""
    metrics = Metrics("1", per_container=True)
    assert metrics.each_container is not None
    stranger = PodFigures("other", Estimate(9))
    found = pod_rows([PodFigures(UID, Estimate(7, 3)), stranger], PODS)
    metrics.each_container.show((), found)
    labels = f'namespace="shop",pod="web-0",uid="{UID}"'
    assert [line for line in scraped(metrics) if line.startswith("ksm_pod_")] == [
        f"ksm_pod_phantom_bytes{{{labels}}} 7.0",
        f"ksm_pod_phantom_error_bytes{{{labels}}} 3.0",
    ]


def test_the_phantom_charge_has_its_error() -> None:
    """From a sample it may be out by more than a small pod has room; unknown is not none."""
    metrics = Metrics("1")
    assert "ksm_node_phantom_error_bytes NaN" in scraped(metrics)
    metrics.show_phantom(Estimate(50, 4))
    assert "ksm_node_phantom_bytes 50.0" in scraped(metrics)
    assert "ksm_node_phantom_error_bytes 4.0" in scraped(metrics)


def test_what_the_kernel_does_not_tell_is_not_shown() -> None:
    """0 would be read as no profit."""
    text = shown(Metrics("1", per_container=True), [figures(profit=None)], [HERE.container_path])
    assert "profit" not in text
    assert counted([KsmStat(process_profit=1), KsmStat()]).profit_bytes is None
    assert counted([KsmStat(3, 1, 2, -4), KsmStat(4, 1, None, 1)]) == counted(
        [KsmStat(7, None, 2, -3)]
    )


def test_containers_are_shown_on_request_only() -> None:
    """Names of pods, and thousands of series, are not for everybody's Prometheus."""
    text = "\n".join(scraped(Metrics("1")))
    assert "ksm_container_" not in text
    assert "ksm_pod_" not in text


def test_ksmds_counters() -> None:
    """A rate of scanning needs the counter itself; a kernel without one shows none."""
    metrics = Metrics("1")
    metrics.scan.show(KsmValues(pages_scanned=5, full_scans=2, ksm_zero_pages=3))
    lines = scraped(metrics)
    assert "ksm_node_pages_scanned_total 5.0" in lines
    assert "ksm_node_full_scans_total 2.0" in lines
    assert f"ksm_node_zero_pages_bytes {3.0 * page_size()}" in lines
    assert not [line for line in lines if line.startswith("ksm_node_pages_skipped_total")]


def test_visits_are_counted_with_their_stop() -> None:
    """How long a target stood still is what its owner asks first."""
    metrics = Metrics("1")
    metrics.visits.count(Visit((0,), 1, "read", stopped_ns=150_000))
    metrics.visits.count(Postponed(1, "Traced"))
    metrics.visits.count(KernelError("x"))
    lines = scraped(metrics)
    assert 'ksm_agent_injection_stop_seconds_bucket{le="0.0001"} 0.0' in lines
    assert 'ksm_agent_injection_stop_seconds_bucket{le="0.0002"} 1.0' in lines
    assert 'ksm_agent_injections_failed_total{reason="Traced"} 1.0' in lines
    assert 'ksm_agent_injections_failed_total{reason="KernelError"} 1.0' in lines
