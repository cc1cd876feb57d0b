"""Nodes that leave and join, as an autoscaler and spot instances have it."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, Final

from benchmarks.controller import kubelets, population
from benchmarks.controller.client import STRATEGIC, Client

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.controller.kubelets import Kubelets
    from benchmarks.controller.population import Scale

BOOT_SECONDS: Final = 10.0
"""From a kubelet's first word to its node being Ready."""
DRAIN_SECONDS: Final = 3.0
_HOUR: Final = 3600.0


class Churn:
    """Lets one node go and another come, again and again.

    Attributes:
        left: how many nodes went.
        joined: how many came.
    """

    def __init__(self, client: Client, scale: Scale, alive: Kubelets) -> None:
        self.left = 0
        self.joined = 0
        self._client = client
        self._scale = scale
        self._alive = alive
        self._numbers = list(range(scale.nodes))
        self._next = scale.nodes

    def join(self) -> str:
        """Let one node join and return its name; it is Ready a little later."""
        number, self._next = self._next, self._next + 1
        body = population.node(number, self._scale.pool(number), ready=False)
        name = population.node_name(number)
        population.join(self._client, body)
        self._numbers.append(number)
        self._alive.join(name)
        self._later(BOOT_SECONDS, lambda: kubelets.say(self._client, name, ready=True))
        self.joined += 1
        return name

    def leave(self) -> None:
        """Let one node go: no new pods first, then it is deleted."""
        number = self._numbers.pop(random.randrange(len(self._numbers)))
        name = population.node_name(number)
        path = f"{population.NODES}/{name}"
        cordon = {"spec": {"unschedulable": True}}
        self._client.request("PATCH", path, cordon, content=STRATEGIC)
        self._alive.leave(name)
        time.sleep(DRAIN_SECONDS)
        self._client.request("DELETE", path)
        self.left += 1

    def run(self, percent_per_hour: float, seconds: float) -> None:
        """Let so many nodes leave and as many join in an hour, for some seconds."""
        pause = _HOUR / (self._scale.nodes * percent_per_hour / 100)
        end = time.monotonic() + seconds
        due = time.monotonic() + min(pause, seconds) / 2
        while due < end:
            time.sleep(max(0.0, due - time.monotonic()))
            self.join()
            self.leave()
            due += pause
        time.sleep(max(0.0, end - time.monotonic()))

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, call)
        timer.daemon = True
        timer.start()
