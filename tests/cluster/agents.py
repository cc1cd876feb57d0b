"""Agents for nodes without machines, which obey at once and write down what they were asked."""

import queue
import threading
import time
from collections.abc import Iterable
from typing import Any, Final, Self

from cluster.api import KSM_NODES, Api, ApiFailure, Follower
from support.simulated_agents import SimulatedAgent, Work

_MANAGER: Final = "ksm-operator-agent"
_MERGES: Final = frozenset({"Merging", "Paused"})
_TICK_SECONDS: Final = 0.1


class Agents:
    """The agents of some nodes; a context.

    They see every state that a KSMNode is in while the API server can be watched, so that a wrong
    order is noticed even if it is taken back at once.

    Attributes:
        silent: names of nodes whose agents neither hear nor say anything now.
        wrong: orders that would let two policies' processes merge at once, had an agent obeyed.
        stories: what became of each node, by name: uids of policies whose processes were enrolled,
            each one's release an empty string.
    """

    def __init__(self, api: Api, names: Iterable[str], work: Work | None = None) -> None:
        self.silent: set[str] = set()
        self.wrong: list[str] = []
        self.stories: dict[str, list[str]] = {name: [] for name in names}
        self._api = api
        self._agents = {
            name: SimulatedAgent(work or Work(), time.monotonic, time.time, f"boot-of-{name}")
            for name in self.stories
        }
        self._orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._missed: dict[str, dict[str, Any]] = {}
        self._stopped = threading.Event()
        self._follower = Follower(api, KSM_NODES, self._orders.put)
        self._thread = threading.Thread(target=self._run, name="agents", daemon=True)

    def __enter__(self) -> Self:
        self._follower.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._follower.stop()
        self._stopped.set()
        self._thread.join()

    def enrolled(self, name: str) -> str:
        """The uid of the policy whose processes are enrolled on a node, empty for none."""
        return self._agents[name].enrolled

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                order = self._orders.get(timeout=_TICK_SECONDS)
            except queue.Empty:
                self._hear_what_was_missed()
            else:
                if order["metadata"]["name"] in self._agents:
                    self._hear(order)
            for name in self._agents:
                if name not in self.silent:
                    self._speak(name)

    def _hear_what_was_missed(self) -> None:
        for name in set(self._missed) - self.silent:
            self._hear(self._missed.pop(name))

    def _hear(self, order: dict[str, Any]) -> None:
        name = order["metadata"]["name"]
        agent = self._agents[name]
        spec = order.get("spec", {})
        owner = spec.get("owner", {}).get("uid", "")
        if spec.get("desiredState") in _MERGES and agent.enrolled not in ("", owner):
            self.wrong.append(f"{name} shall merge for {owner}, and {agent.enrolled} is enrolled")
        if name in self.silent:
            self._missed[name] = order
        else:
            agent.obey(order)

    def _speak(self, name: str) -> None:
        agent = self._agents[name]
        before = agent.enrolled
        status = agent.write()
        if agent.enrolled != before:
            self.stories[name].append(agent.enrolled)
        if status is None:
            return
        body = {
            "apiVersion": "ksm-operator.dev/v1alpha1",
            "kind": "KSMNode",
            "metadata": {"name": name},
            "status": status,
        }
        try:
            self._api.apply(f"{KSM_NODES}/{name}/status", _MANAGER, body)
        except ApiFailure:
            # Gone meanwhile, or nobody answers; another status of it is wanted then.
            agent.not_written()
