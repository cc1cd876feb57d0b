"""What kubelets say of their nodes every five minutes: all that the controller hears of most."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, Final

from benchmarks.controller import population
from benchmarks.controller.client import NOT_FOUND, STRATEGIC, ApiError, Client, Person

if TYPE_CHECKING:
    from collections.abc import Iterable

HEARTBEAT_SECONDS: Final = 300.0
"""nodeStatusReportFrequency of a kubelet whose status does not change."""


def person(node: str) -> Person:
    """The kubelet of a node, as its certificate names it."""
    return Person(f"system:node:{node}", "system:nodes")


def say(client: Client, node: str, *, ready: bool | None = None) -> None:
    """Report a node's status.

    Args:
        client: the API server.
        node: its name.
        ready: that this changed; None for a heartbeat.
    """
    conditions = (
        population.conditions(heartbeat=True)
        if ready is None
        else population.conditions(ready=ready)
    )
    client.request(
        "PATCH",
        f"{population.NODES}/{node}/status",
        {"status": {"conditions": conditions}},
        content=STRATEGIC,
        person=person(node),
    )


class Kubelets:
    """The heartbeats of all nodes, evenly in time.

    Attributes:
        beats: how many were sent.
    """

    def __init__(self, client: Client) -> None:
        self.beats = 0
        self._client = client
        self._nodes: list[str] = []
        self._lock = threading.Lock()

    def start(self, nodes: Iterable[str]) -> None:
        """Let these nodes live."""
        self._nodes = list(nodes)
        random.shuffle(self._nodes)
        threading.Thread(target=self._run, name="kubelets", daemon=True).start()

    def join(self, node: str) -> None:
        """Let one more node live."""
        with self._lock:
            self._nodes.append(node)

    def leave(self, node: str) -> None:
        """Let a node be gone."""
        with self._lock:
            self._nodes.remove(node)

    def _run(self) -> None:
        turn, due = 0, time.monotonic()
        while True:
            with self._lock:
                turn = (turn + 1) % len(self._nodes)
                node, pause = self._nodes[turn], HEARTBEAT_SECONDS / len(self._nodes)
            try:
                say(self._client, node)
                self.beats += 1
            except ApiError as error:
                if error.code not in (0, NOT_FOUND):
                    raise
            due = max(due + pause, time.monotonic() - 1.0)
            time.sleep(max(0.0, due - time.monotonic()))
