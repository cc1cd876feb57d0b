from typing import Any, cast

import pytest

from ksm_operator.controller.cluster import Cluster, UnreachableError
from ksm_operator.controller.events import Event, Recorder
from unit.controller.examples import policy

READY = Event("Normal", "Ready", "all nodes")


class Server:
    """Takes Events, or cannot be reached."""

    def __init__(self) -> None:
        self.posted: list[tuple[str, dict[str, Any]]] = []
        self.reachable = True

    def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Keep an Event."""
        if not self.reachable:
            raise UnreachableError("cut")
        self.posted.append((path, body))
        return body


@pytest.fixture
def server() -> Server:
    """A server without Events."""
    return Server()


def test_event_is_where_describe_looks(server: Server) -> None:
    """`kubectl describe` searches Events of cluster-scoped objects by an empty namespace."""
    Recorder(cast("Cluster", server), "pod-1").post(policy("web"), READY)
    path, body = server.posted[0]
    assert path == "/api/v1/namespaces/default/events"
    assert "namespace" not in body["involvedObject"]
    assert body["involvedObject"]["uid"] == "uid-web"
    assert body["metadata"]["name"].startswith("web.")


def test_same_event_is_not_posted_twice_in_ten_minutes(server: Server) -> None:
    """A node that flaps must not fill etcd."""
    now = [0.0]
    recorder = Recorder(cast("Cluster", server), "pod-1", lambda: now[0])
    for moment, count in ((0.0, 1), (599.0, 1), (601.0, 2)):
        now[0] = moment
        recorder.post(policy("web"), READY)
        assert len(server.posted) == count
    recorder.post(policy("db"), READY)
    recorder.post(policy("web"), Event("Normal", "Ready", "another message"))
    assert len(server.posted) == 4


def test_lost_event_is_no_failure(server: Server) -> None:
    """Events are for people; what the operator does must not depend on them."""
    server.reachable = False
    Recorder(cast("Cluster", server), "pod-1").post(policy("web"), READY)


def test_long_names_and_messages_fit(server: Server) -> None:
    """The API server refuses an Event whose name or message is too long."""
    long = Event("Warning", "Degraded", "x" * 5000)
    Recorder(cast("Cluster", server), "pod-1").post(policy("w" * 253), long)
    _, body = server.posted[0]
    assert len(body["metadata"]["name"]) <= 253
    assert len(body["message"]) == 1024
