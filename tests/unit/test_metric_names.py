"""Names, units and help of every series, by the rules of `promtool check metrics`."""

import re
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric

from ksm_operator.agent.metrics import Metrics
from ksm_operator.controller.metrics import REGISTRY

OTHER_UNITS = (
    *("milliseconds", "microseconds", "nanoseconds", "minutes", "hours", "days", "weeks"),
    *("kilobytes", "megabytes", "gigabytes", "kibibytes", "mebibytes", "gibibytes", "bits"),
    *("percent", "millis", "kelvin", "fahrenheit", "inches", "feet", "miles", "ounces"),
)
ABBREVIATED = re.compile(r"_(s|ms|us|ns|sec|secs|b|kb|mb|gb|kib|mib|gib|pct)(_|$)")
SUFFIX = {"counter": "_total", "info": "_info"}
OF_HISTOGRAMS = ("_bucket", "_count", "_sum")


def faults(metric: Metric) -> Iterator[str]:  # noqa: C901 - one line per rule
    """What promtool would say of a family (client_golang, testutil/promlint)."""
    name = metric.name + ("_total" if metric.type == "counter" else "")
    words = name.split("_")
    if not metric.documentation.strip():
        yield "no help text"
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        yield "not in snake_case, or with colons, which are for recording rules"
    if metric.type != "counter" and name.endswith("_total"):
        yield 'only counters end in "_total"'
    if metric.type not in ("histogram", "summary") and name.endswith(OF_HISTOGRAMS):
        yield "ends as a part of a histogram does"
    if metric.type in words and metric.type != "info":
        yield "names its own type"
    if set(words) & set(OTHER_UNITS) or ABBREVIATED.search(name.removesuffix("_total")):
        yield "in no base unit (seconds, bytes, ratio)"
    for unit in ("seconds", "bytes"):
        if unit in words and not name.removesuffix("_total").endswith(unit):
            yield f"the unit {unit} is not at the end"
    for sample in metric.samples:
        if {"le", "quantile"} & set(sample.labels) and metric.type not in ("histogram", "summary"):
            yield "has a label of histograms"
        if not all(re.fullmatch(r"[a-z][a-z0-9_]*", label) for label in sample.labels):
            yield "has a label that is not in snake_case"


def ours() -> list[Metric]:
    """Every family of the agent and of the controller."""
    return [*Metrics("1", per_container=True).registry.collect(), *REGISTRY.collect()]


def test_every_name_is_by_the_rules() -> None:
    """Dashboards of others find units and kinds by the name alone."""
    found = {metric.name: list(faults(metric)) for metric in ours()}
    assert not {name: said for name, said in found.items() if said}
    assert len(found) > 30


@pytest.mark.parametrize("registry", [Metrics("1", per_container=True).registry, REGISTRY])
def test_nothing_is_shown_that_has_no_name_here(registry: CollectorRegistry) -> None:
    """The library adds a gauge with the time of its making to every counter unless told not to."""
    shown = re.findall(r"^# TYPE (\S+)", generate_latest(registry).decode(), re.MULTILINE)
    known = {metric.name + SUFFIX.get(metric.type, "") for metric in registry.collect()}
    assert set(shown) == known


def test_no_name_twice() -> None:
    """One Prometheus scrapes both: the same name must be the same thing."""
    names = [metric.name for metric in ours()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("make", "name", "text"),
    [
        (Gauge, "ksm_saved_total", "x"),
        (Gauge, "ksm_saved_count", "x"),
        (Gauge, "ksm_savedBytes", "x"),
        (Gauge, "ksm:saved_bytes", "x"),
        (Gauge, "ksm_saved_kibibytes", "x"),
        (Gauge, "ksm_bytes_saved", "x"),
        (Gauge, "ksm_saved_gauge", "x"),
        (Gauge, "ksm_saved_bytes", " "),
        (Counter, "ksm_scan_ms", "x"),
        (Histogram, "ksm_scan_histogram", "x"),
    ],
)
def test_the_rules_find_faults(
    make: type[Gauge | Counter | Histogram], name: str, text: str
) -> None:
    """A rule that lets everything pass proves nothing."""
    registry = CollectorRegistry()
    make(name, text, registry=registry)
    assert [said for metric in registry.collect() for said in faults(metric)]
