"""Writes KSMNode.status, in a thread of its own so that a slow API server delays nothing."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Final

from ksm_operator.agent import status as quiet
from ksm_operator.agent.client import ApiError, Client
from ksm_operator.agent.watcher import pause_after
from ksm_operator.agent.wire import NodeStatus, to_json_types

if TYPE_CHECKING:
    from collections.abc import Callable

    from ksm_operator.agent.metrics import Metrics

log = logging.getLogger(__name__)

FIELD_MANAGER: Final = "ksm-operator-agent"
API_VERSION: Final = "ksm-operator.dev/v1alpha1"
COLLECTION: Final = f"/apis/{API_VERSION}/ksmnodes"
NOT_FOUND: Final = 404


class StatusWriter(threading.Thread):
    """Keeps the API server's copy of the status up to date, quietly."""

    def __init__(
        self,
        client: Client,
        node: str,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name="write status", daemon=True)
        self._client = client
        self._node = node
        self._metrics = metrics
        self._clock = clock
        self._lock = threading.Condition()
        self._offered: NodeStatus | None = None
        self._written: quiet.Written | None = None

    def offer(self, status: NodeStatus) -> None:
        """Hand over the present status; it is written if that is due."""
        with self._lock:
            if quiet.due(self._written, status, self._clock()):
                self._offered = status
                self._lock.notify()

    def forget(self) -> None:
        """Write the next status whatever the last one was: the object is another one now."""
        with self._lock:
            self._written = None

    def run(self) -> None:
        """Write what is offered, for ever."""
        failures = 0
        while True:
            with self._lock:
                while self._offered is None:
                    self._lock.wait()
                status, self._offered = self._offered, None
            body = {
                "apiVersion": API_VERSION,
                "kind": "KSMNode",
                "metadata": {"name": self._node},
                "status": to_json_types(status),
            }
            try:
                self._client.apply_status(f"{COLLECTION}/{self._node}", FIELD_MANAGER, body)
            except ApiError as error:
                self._metrics.errors.labels("status").inc()
                level = logging.WARNING if failures == 0 else logging.DEBUG
                log.log(level, "status not written", extra={"error": str(error)})
                time.sleep(pause_after(failures))
                failures += 1
                if error.status != NOT_FOUND:
                    self._offer_again(status)
                continue
            failures = 0
            with self._lock:
                self._written = quiet.record(self._written, status, self._clock())

    def _offer_again(self, status: NodeStatus) -> None:
        with self._lock:
            self._offered = self._offered or status
