"""All agents in one process: each lives where its DaemonSet's pod is, and speaks as the real one.

Real ones are on machines of their own, so what this process takes of the CPU is not the operator's.
"""

from __future__ import annotations

import contextlib
import heapq
import math
import queue
import random
import sys
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec

from benchmarks.controller.chart import NAMESPACE
from benchmarks.controller.client import APPLY, ApiError, Client, Person
from benchmarks.controller.control_plane import REPOSITORY
from ksm_operator.agent.writer import API_VERSION, COLLECTION, FIELD_MANAGER
from local_cluster import layout, processes
from local_cluster.processes import Service
from support.simulated_agents import SimulatedAgent, Work

_MODULE: Final = "benchmarks.controller.agents"
PODS: Final = f"/api/v1/namespaces/{NAMESPACE}/pods"
AGENT: Final = f"system:serviceaccount:{NAMESPACE}:ksm-operator-agent"
WRITERS: Final = 16
START_SECONDS: Final = (30.0, 60.0)
"""From the pod to the agent's first word: it is scheduled, its image is fetched, it starts."""
ENROL_SECONDS: Final = (1.0, 4.0)
RELEASE_SECONDS: Final = (1.0, 3.0)
LOOK_SECONDS: Final = 5.0
"""How often an agent weighs whether its figures are worth a write."""
REST_LOOK_SECONDS: Final = 10.0
GROWTH_SECONDS: Final = 180.0
"""Until ksmd has merged what there is."""
TIDE: Final = 0.06
TIDE_SECONDS: Final = 2400.0
"""What is saved goes up and down by this share in this time: a write each ten minutes or so."""
SAVED_BYTES: Final = (1 << 29, 1 << 32)


@dataclass(slots=True)
class Life:
    """One agent from its pod's creation to its deletion.

    Attributes:
        pod: its pod's uid.
        born: when it begins to speak, on the monotonic clock.
        agent: what it says.
        target: bytes that merging saves in the end.
        phase: of the tide, radians.
        since: when it began to save; 0 while it does not.
        look: when it is asked next.
    """

    pod: str
    born: float
    agent: SimulatedAgent
    target: int = field(default_factory=lambda: random.randint(*SAVED_BYTES))
    phase: float = field(default_factory=lambda: random.uniform(0, 2 * math.pi))
    since: float = 0.0
    look: float = 0.0


News = tuple[Literal["state", "pod", "refused"], str, Any]


class _Outbox:
    """The statuses to be written, of each node the latest alone, as a real agent has it."""

    def __init__(self) -> None:
        self._latest: dict[str, dict[str, Any]] = {}
        self._news = threading.Condition()

    def put(self, node: str, status: dict[str, Any]) -> None:
        """Add one; it takes the place of an older one of that node."""
        with self._news:
            self._latest[node] = status
            self._news.notify()

    def take(self) -> tuple[str, dict[str, Any]]:
        """Wait for one and take the one that has waited for longest."""
        with self._news:
            while not self._latest:
                self._news.wait()
            node = next(iter(self._latest))
            return node, self._latest.pop(node)


class Agents:
    """The agents of all nodes.

    One thread thinks for them all; a few others write, those of one node always the same.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._news: queue.SimpleQueue[News] = queue.SimpleQueue()
        self._outboxes = [_Outbox() for _ in range(WRITERS)]
        self._lives: dict[str, Life] = {}
        self._states: dict[str, dict[str, Any]] = {}
        self._looks: list[tuple[float, str]] = []

    def run(self) -> None:
        """Let them live, for ever."""
        for outbox in self._outboxes:
            threading.Thread(target=self._write, args=(outbox,), daemon=True).start()
        threading.Thread(target=self._watch, args=("state", COLLECTION), daemon=True).start()
        threading.Thread(target=self._watch, args=("pod", PODS), daemon=True).start()
        while True:
            soonest = self._looks[0][0] - time.monotonic() if self._looks else 1.0
            with contextlib.suppress(queue.Empty):
                self._hear(self._news.get(timeout=min(max(soonest, 0.0), 1.0)))
                # A flood of news must not keep those waiting who have something to say.
                for _ in range(100):
                    self._hear(self._news.get_nowait())
            now = time.monotonic()
            while self._looks and self._looks[0][0] <= now:
                when, node = heapq.heappop(self._looks)
                life = self._lives.get(node)
                if life is not None and life.look == when:
                    self._ask(node, life, now)

    def _hear(self, news: News) -> None:
        about, kind, what = news
        if about == "pod":
            self._pod(kind, what)
        elif about == "state":
            self._state(kind, what)
        elif life := self._lives.get(kind):
            life.agent.not_written()
            self._look(kind, life, time.monotonic() + LOOK_SECONDS)

    def _pod(self, kind: str, raw: msgspec.Raw) -> None:
        pod = msgspec.json.decode(raw)
        uid, node = pod["metadata"]["uid"], _placed_on(pod)
        known = self._lives.get(node)
        if kind == "DELETED":
            if known is not None and known.pod == uid:
                del self._lives[node]
            return
        if known is not None and known.pod == uid:
            return
        work = Work(
            containers=random.randint(2, 30),
            enrol_seconds=random.uniform(*ENROL_SECONDS),
            release_seconds=random.uniform(*RELEASE_SECONDS),
        )
        agent = SimulatedAgent(work, time.monotonic, time.time, str(uuid.uuid4()))
        born = time.monotonic() + random.uniform(*START_SECONDS)
        life = self._lives[node] = Life(uid, born, agent)
        self._look(node, life, born)

    def _state(self, kind: str, raw: msgspec.Raw) -> None:
        state = msgspec.json.decode(raw)
        node = state["metadata"]["name"]
        if kind == "DELETED":
            self._states.pop(node, None)
            return
        known = self._states.get(node)
        self._states[node] = state
        news = known is None or _version(known) != _version(state)
        life = self._lives.get(node)
        if news and life is not None and life.born <= time.monotonic():
            self._look(node, life, time.monotonic())

    def _ask(self, node: str, life: Life, now: float) -> None:
        state = self._states.get(node)
        if state is None:
            self._look(node, life, now + REST_LOOK_SECONDS)
            return
        agent = life.agent
        agent.obey(state)
        agent.saved_bytes = _saved(life, now)
        status = agent.write()
        if status is not None:
            self._outboxes[hash(node) % WRITERS].put(node, status)
        if agent.speaks_at > now:
            self._look(node, life, agent.speaks_at)
        else:
            young = not life.since or now - life.since < GROWTH_SECONDS + LOOK_SECONDS
            self._look(node, life, now + (LOOK_SECONDS if young else REST_LOOK_SECONDS))

    def _look(self, node: str, life: Life, when: float) -> None:
        life.look = when
        heapq.heappush(self._looks, (when, node))

    def _watch(self, about: Literal["state", "pod"], path: str) -> None:
        for kind, raw in self._client.follow(path):
            self._news.put((about, kind, raw))

    def _write(self, outbox: _Outbox) -> None:
        while True:
            node, status = outbox.take()
            metadata = {"name": node}
            body = {"apiVersion": API_VERSION, "kind": "KSMNode", "metadata": metadata}
            try:
                self._client.request(
                    "PATCH",
                    f"{COLLECTION}/{node}/status",
                    {**body, "status": status},
                    content=APPLY,
                    query={"fieldManager": FIELD_MANAGER, "force": "true"},
                    person=person(node),
                )
            except ApiError as error:
                print(f"{node}: {error}", file=sys.stderr, flush=True)
                self._news.put(("refused", node, None))


def person(node: str) -> Person:
    """The agent of a node, as the API server knows it by its token."""
    return Person(AGENT, extra=(("authentication.kubernetes.io/node-name", node),))


def start() -> None:
    """Start them in a process of their own."""
    folders = (".", "tests", "hack/local-cluster", "hack/vm")
    processes.start(
        Service(
            "agents",
            (sys.executable, "-m", _MODULE),
            mark=_MODULE,
            variables=(
                ("PYTHONPATH", ":".join(str(REPOSITORY / folder) for folder in folders)),
                ("KSM_LOCAL_CLUSTER", str(layout.INSTANCE)),
            ),
        )
    )


def _version(state: dict[str, Any]) -> tuple[str, int]:
    """What an agent acts on: its own status is no news to it."""
    return state["metadata"]["uid"], state["metadata"]["generation"]


def _placed_on(pod: dict[str, Any]) -> str:
    """The node that the DaemonSet made the pod for; nobody schedules it here."""
    affinity = pod["spec"]["affinity"]["nodeAffinity"]
    terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    return str(terms[0]["matchFields"][0]["values"][0])


def _saved(life: Life, now: float) -> int:
    """What merging saves: from nothing to all there is, and then with the tide."""
    if not life.agent.enrolled:
        life.since = 0.0
        return 0
    life.since = life.since or now
    grown = min(1.0, (now - life.since) / GROWTH_SECONDS)
    tide = 1 + TIDE * math.sin(life.phase + 2 * math.pi * now / TIDE_SECONDS)
    return int(life.target * grown * tide)


def main() -> None:
    """Play the agents until somebody ends this process."""
    Agents(Client()).run()


if __name__ == "__main__":
    main()
