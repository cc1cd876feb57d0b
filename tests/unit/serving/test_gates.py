"""The gates of agent and controller, with an API server that is not there."""

import logging
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from kubernetes.client import ApiClient, Configuration

from ksm_operator.agent import http as agent
from ksm_operator.agent.client import Access, Client
from ksm_operator.controller import http as controller
from ksm_operator.controller.cluster import Cluster
from ksm_operator.serving.access import AWAY, Gate


def agents(url: str, folder: Path) -> Gate:
    """The agent's."""
    token = folder / "token"
    token.write_text("mine")
    return agent.gate(Client(Access(url, token, folder / "ca.crt")))


def controllers(url: str, _folder: Path) -> Gate:
    """The controller's."""
    configuration = Configuration(host=url)
    configuration.retries = False
    return controller.gate(Cluster(ApiClient(configuration)))


@pytest.mark.parametrize("made", [agents, controllers])
def test_a_refused_connection_lets_nobody_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, made: Callable[[str, Path], Gate]
) -> None:
    """Each has a client of its own, with errors of its own; none may pass for a yes, or a crash."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        gate = made(f"http://127.0.0.1:{taken.getsockname()[1]}", tmp_path)
        with caplog.at_level(logging.WARNING):
            assert gate.judge("Bearer a.b.c") == AWAY
    assert "nobody can read /metrics" in caplog.text
