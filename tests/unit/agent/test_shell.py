"""What people and machines read of the agent: logs, metrics, health."""

import json
import logging
import urllib.error
import urllib.request

import pytest
from prometheus_client import Gauge

from ksm_operator.agent import http, logs
from ksm_operator.agent.__main__ import main
from ksm_operator.agent.metrics import Metrics


def get(port: int, path: str) -> tuple[int, str]:
    """Status and body of one request."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.parametrize(("silent", "status"), [(1.0, 200), (3600.0, 503)])
def test_health_is_the_main_loops(silent: float, status: int) -> None:
    """A stuck loop must be restarted, however well the web server answers."""
    server = http.serve(0, Metrics("1"), lambda: silent, None)
    try:
        assert get(server.server_address[1], "/healthz")[0] == status
        assert get(server.server_address[1], "/other")[0] == 404
    finally:
        server.shutdown()
        server.server_close()


def test_metrics() -> None:
    """The series that dashboards and alerts are built on exist under these names."""
    metrics = Metrics("1.2.3")
    metrics.ksmd_used(2_000_000_000)
    metrics.ksmd_used(3_000_000_000)
    metrics.helper_died(1)
    metrics.helper_died(3)
    metrics.count_skipped({"Pause": 2})
    metrics.count_skipped({"RealTime": 1})
    server = http.serve(0, metrics, lambda: 0.0, None)
    try:
        status, text = get(server.server_address[1], "/metrics")
    finally:
        server.shutdown()
        server.server_close()
    assert status == 200
    assert 'ksm_agent_build_info{version="1.2.3"} 1.0' in text
    assert "ksm_node_ksmd_cpu_seconds_total 3.0" in text
    assert "ksm_agent_helper_deaths_total 3.0" in text
    assert 'ksm_node_skipped_processes{reason="RealTime"} 1.0' in text
    assert "Pause" not in text
    for name in ("ksm_node_saved_bytes", "ksm_node_profit_bytes", "ksm_agent_errors"):
        assert name in text


def test_a_series_that_goes_on_is_in_every_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prometheus asks in the middle of a change as well, and a gap would look like an end."""
    metrics = Metrics("1")
    metrics.count_skipped({"Pause": 2, "RealTime": 1})
    scraped: list[bytes] = []

    def seen(name: str) -> None:
        original = getattr(Gauge, name)

        def then_scraped(gauge: Gauge, *words: object) -> object:
            answer = original(gauge, *words)
            scraped.append(metrics.exposition())
            return answer

        monkeypatch.setattr(Gauge, name, then_scraped)

    for name in ("clear", "labels", "remove", "set"):
        seen(name)
    metrics.count_skipped({"Userfaultfd": 5, "Pause": 3})
    assert scraped
    assert all(b'ksm_node_skipped_processes{reason="Pause"}' in one for one in scraped)
    assert b'{reason="Userfaultfd"} 5.0' in scraped[-1]
    assert b"RealTime" not in scraped[-1]


def test_one_line_per_decision() -> None:
    """Log collectors take a line as one event; what it is about stands in fields."""
    record = logging.makeLogRecord(
        {"msg": "processes\nenrolled", "levelname": "INFO", "pids": [1, 2], "cgroup": "/a"}
    )
    line = logs.JsonFormatter().format(record)
    assert "\n" not in line
    fields = json.loads(line)
    assert fields["msg"] == "processes\nenrolled"
    assert fields["level"] == "info"
    assert fields["pids"] == [1, 2]
    assert fields["cgroup"] == "/a"


def test_flags_that_belong_together(capsys: pytest.CaptureFixture[str]) -> None:
    """A server without credentials is refused before anything is touched."""
    with pytest.raises(SystemExit):
        main(["--node", "n", "--server", "https://127.0.0.1:6443"])
    assert "--server needs --token-file and --ca-file" in capsys.readouterr().err
