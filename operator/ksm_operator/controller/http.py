"""The controller's HTTP endpoints: /healthz, /readyz and /metrics."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from ksm_operator.controller import log
from ksm_operator.controller.cluster import Cluster, ClusterError
from ksm_operator.controller.metrics import REGISTRY
from ksm_operator.serving import server
from ksm_operator.serving.access import Gate, ReviewError
from ksm_operator.serving.reviews import reviewer
from ksm_operator.serving.server import Reply, Server

Probe = Callable[[], str]
"""Returns what is wrong, empty if nothing is."""


def serve(port: int, healthy: Probe, ready: Probe, gate: Gate | None) -> Server:
    """Serve for as long as the process lives, from a thread of its own.

    Args:
        port: on every address of the pod; 0 takes a free one.
        healthy: whether the process works; where it does not, it had better be restarted.
        ready: whether it leads and knows the cluster.
        gate: who may read /metrics; None for everybody.

    Raises:
        OSError: the port is taken.
    """

    def probe(look: Probe) -> server.Route:
        def answer(_authorization: str | None) -> Reply:
            wrong = look()
            status = HTTPStatus.SERVICE_UNAVAILABLE if wrong else HTTPStatus.OK
            return server.say(status, wrong or "ok")

        return answer

    read = server.guarded(gate, lambda: generate_latest(REGISTRY), CONTENT_TYPE_LATEST)
    routes = {"/healthz": probe(healthy), "/readyz": probe(ready), "/metrics": read}
    return server.serve(port, routes)


def gate(cluster: Cluster) -> Gate:
    """Return what asks the API server who may read."""

    def post(path: str, body: dict[str, Any]) -> Any:
        try:
            return cluster.create(path, body)
        except ClusterError as error:
            raise ReviewError(str(error)) from error

    def complain(why: str) -> None:
        log.warning("nobody can read /metrics: the API server cannot be asked who may", error=why)

    return Gate(reviewer(post), complain)
