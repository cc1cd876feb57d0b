"""/metrics and /healthz."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from prometheus_client import CONTENT_TYPE_LATEST

from ksm_operator.agent.client import ApiError, Client
from ksm_operator.serving import server
from ksm_operator.serving.access import Gate, ReviewError
from ksm_operator.serving.reviews import reviewer

if TYPE_CHECKING:
    from collections.abc import Callable

    from ksm_operator.agent.metrics import Metrics
    from ksm_operator.serving.server import Reply, Server

log = logging.getLogger(__name__)

HEALTHY_SECONDS: Final = 60.0
"""The main loop ticks several times a minute; releasing one huge process ticks with each chunk."""


def serve(
    port: int, metrics: Metrics, silent_for: Callable[[], float], gate: Gate | None
) -> Server:
    """Answer on all addresses from a thread of its own.

    Args:
        port: TCP port; 0 takes a free one.
        metrics: what /metrics shows.
        silent_for: seconds since the main loop last ticked.
        gate: who may read /metrics; None for everybody.

    Raises:
        OSError: the port is taken.
    """

    def health(_authorization: str | None) -> Reply:
        silent = silent_for()
        if silent < HEALTHY_SECONDS:
            return server.say(HTTPStatus.OK, "ok")
        return server.say(
            HTTPStatus.SERVICE_UNAVAILABLE, f"the main loop has not ticked for {silent:.0f} s"
        )

    read = server.guarded(gate, metrics.exposition, CONTENT_TYPE_LATEST)
    return server.serve(port, {"/metrics": read, "/healthz": health})


def gate(client: Client) -> Gate:
    """Return what asks the API server who may read."""

    def post(path: str, body: dict[str, Any]) -> Any:
        try:
            return client.review(path, body)
        except ApiError as error:
            raise ReviewError(str(error)) from error

    def complain(why: str) -> None:
        log.warning(
            "nobody can read /metrics: the API server cannot be asked who may", extra={"error": why}
        )

    return Gate(reviewer(post), complain)
