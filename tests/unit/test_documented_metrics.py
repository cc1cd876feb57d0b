from pathlib import Path

from prometheus_client import CollectorRegistry

from ksm_operator.agent.metrics import Metrics
from ksm_operator.controller.metrics import REGISTRY

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


def names(registry: CollectorRegistry) -> set[str]:
    """The series that Prometheus finds, as it names them."""
    suffix = {"counter": "_total", "info": "_info"}
    return {family.name + suffix.get(family.type, "") for family in registry.collect()}


def test_every_series_is_documented() -> None:
    """Nobody alerts on what he does not know of; and a name in a dashboard must exist."""
    text = DOCUMENT.read_text()
    there = names(REGISTRY) | names(Metrics("1", per_container=True).registry)
    told = {word for word in text.split("`") if word.startswith(("ksm_operator_", "ksm_node_"))}
    told |= {word for word in text.split("`") if word.startswith(("ksm_agent_", "ksm_container_"))}
    told |= {word for word in text.split("`") if word.startswith("ksm_pod_")}
    assert {word for word in told if word.isidentifier()} == there
