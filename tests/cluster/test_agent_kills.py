"""The agent's program dies at any moment, again and again, while it is at work."""

import math
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from cluster.agent_program import AgentProgram
from cluster.command import wait_until
from cluster.own_node import POLICIES, OwnNode
from cluster.quiet_program import quiet
from kernel.population import build, kinds
from kernel.population.kinds import Kind
from support import kernel

KILLS: Final = 50
SOAK_KILLS: Final = 1000
SECONDS_PER_KILL: Final = 20
"""Far more than one takes; a machine that is busy gets its time."""
LONGEST_DEEDS: Final = 0.5
"""Seconds: the first agent looks at the whole node before anything, those after it are quicker."""
SETTLED_SECONDS: Final = 90
TUNINGS: Final[tuple[dict[str, Any], ...]] = (
    {"tuning": "Auto"},
    {"tuning": "Fixed", "pagesToScan": 2000, "sleepMilliseconds": 10},
    {"tuning": "Auto", "useZeroPages": True, "cpuLimitMilliCPU": 100},
)
POD_SECONDS: Final = (2.0, 8.0)
ORDER_SECONDS: Final = (0.2, 2.0)
PROGRAMS: Final = (
    *("c forks", "c exec", "c signals", "c threads", "c self-pipe", "c timers", "c epoll"),
    *("python threads", "go ticking"),
)

OWN_WISH: Final = quiet(asks=True, merges_at_the_end=True)


class Domains(threading.Thread):
    """Looks all the time whether processes of both namespaces merge at the same moment."""

    def __init__(self, node: OwnNode, own: set[int]) -> None:
        super().__init__(name="domains", daemon=True)
        self.together: list[str] = []
        self.looks = 0
        self.seen = Counter[str]()
        self._node = node
        self._own = own
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End, and wait for it."""
        self._stopped.set()
        self.join()

    def run(self) -> None:
        """Until it is stopped."""
        one, two = self._node.namespaces
        while not self._stopped.wait(0.02):
            began = time.monotonic()
            before, between = self._merging(one), self._merging(two)
            again = {pid for pid in before if kernel.merge_any(pid)}
            self.looks += 1
            self.seen.update({one: bool(before), two: bool(between)})
            # Between two looks that are far apart everything may have changed hands, and back.
            if between and again and time.monotonic() - began < ORDER_SECONDS[0]:
                self.together.append(f"{one}: {sorted(again)}, {two}: {sorted(between)}")

    def _merging(self, namespace: str) -> set[int]:
        found = set()
        for pod in self._node.running:
            if pod.namespace == namespace:
                found |= {pid for pid in pod.pids() if kernel.merge_any(pid)}
        return found - self._own


class Life:
    """Pods that come and go, and a KSMNode that changes its mind, by chance."""

    def __init__(self, node: OwnNode, programs: Sequence[Kind], chance: random.Random) -> None:
        self.orders = Counter[str]()
        self._node = node
        self._programs = programs
        self._chance = chance
        self._next_order = 0.0

    def go_on_for(self, seconds: float) -> None:
        """Let it be lived for so long."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            self._step()
            time.sleep(min(0.05, left))

    def go_on_until(self, condition: Callable[[], bool]) -> None:
        """Let it be lived until it is so."""

        def is_so() -> bool:
            self._step()
            return condition()

        wait_until(is_so, SETTLED_SECONDS, "the agent goes on", poll=0.05)

    def _step(self) -> None:
        node, now = self._node, time.monotonic()
        for pod in [one for one in node.pods if one.ends < now]:
            node.end(pod)
        for name in self._node.namespaces:
            if not any(one.namespace == name and one.ends < math.inf for one in node.pods):
                one = self._chance.choice(self._programs)
                node.run(name, [one], self._chance.uniform(*POD_SECONDS))
        node.judge()
        if now > self._next_order:
            self._next_order = now + self._chance.uniform(*ORDER_SECONDS)
            self._order()

    def _order(self) -> None:
        orders: list[tuple[str, int, Callable[[], object]]] = [
            ("granted", 6, self._grant),
            ("selects others", 3, self._select),
            ("released", 2, self._node.release),
            ("paused", 1, lambda: self._grant("Paused")),
            ("labelled", 3, self._label),
            ("made anew by hand", 1, self._make_anew),
        ]
        ((name, _, order),) = self._chance.choices(orders, [weight for _, weight, _ in orders])
        self.orders[name] += 1
        order()

    def _grant(self, state: str = "Merging") -> None:
        policy, namespace = self._chance.choice(
            [*zip(POLICIES, self._node.namespaces, strict=True)]
        )
        self._node.grant(policy, namespace, state, **self._chance.choice(TUNINGS))

    def _select(self) -> None:
        self._node.grant(POLICIES[0], self._chance.choice(self._node.namespaces))

    def _label(self) -> None:
        pod = self._chance.choice(self._node.pods)
        self._node.label(pod, self._chance.choice(("disabled", None)))

    def _make_anew(self) -> None:
        self._node.forget()
        self._grant()


class Scene:
    """All of it."""

    def __init__(self, agent: AgentProgram, node: OwnNode, life: Life, domains: Domains) -> None:
        self.agent = agent
        self.node = node
        self.life = life
        self.domains = domains

    def merging(self) -> set[int]:
        """Who of the pods' processes merges."""
        found = (pid for pod in self.node.running for pid in pod.pids())
        return {pid for pid in found if kernel.merge_any(pid)}

    def assert_nobody_was_harmed(self) -> None:
        """Nothing of what must never be has been."""
        assert not self.node.deviations
        assert not self.domains.together

    def assert_nobody_is_traced(self) -> None:
        """No process stands still, or waits for a tracer that is dead."""
        for pod in self.node.running:
            for pid in pod.pids():
                wait_until(lambda pid=pid: not _is_traced(pid), 10, f"{pid} runs")  # type: ignore[misc]

    def assert_record_is_true(self, own: set[int]) -> None:
        """Whoever merges by us is on record, or is told by a record of its container."""
        before = self.agent.record
        merging = {
            self.node.container(pod): {pid for pid in pod.pids() if kernel.merge_any(pid)} - own
            for pod in self.node.running
        }
        containers = {one["path"]: one for one in before.get("containers", [])}
        for path, members in merging.items():
            if members:
                assert path in containers, f"{members} merge, and {path} is on no record"
                assert not containers[path]["own"], f"{members} of {path}: {containers[path]}"
        if any(merging.values()):
            assert before["owner"]


def _is_traced(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return "\nTracerPid:\t0\n" not in status or "\nState:\tt" in status


def _programs() -> list[Kind]:
    programs = build.programs()
    every = [*kinds.c_kinds(programs), *kinds.runtime_kinds(programs)]
    return [kind for kind in every if kind.name in PROGRAMS]


def kill_again_and_again(kills: int, agent: AgentProgram, node: OwnNode) -> None:
    """The whole scene; see the tests."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    settings = kernel.settings()
    wish = node.run(node.namespaces[0], [OWN_WISH])
    wait_until(lambda: any(map(kernel.merge_any, wish.pids())), 30, "one merges by itself")
    own = set(wish.pids())
    programs = _programs()
    for name in node.namespaces:
        node.run(name, chance.sample(programs, 1))
    domains = Domains(node, own)
    domains.start()
    try:
        scene = Scene(agent, node, Life(node, programs, chance), domains)
        how = _kill(kills, scene, chance, own)
        said = agent.log
        words = ("resumed", "processes enrolled", "container released", "node given back")
        print(f"{dict(how)}; told: {dict(scene.life.orders)}; pods ended: {node.ended}")
        print(f"looks: {domains.looks}, with merging ones: {dict(domains.seen)}")
        print({word: said.count(word) for word in words})
        _come_to_rest(scene, own, settings)
        scene.assert_nobody_was_harmed()
    finally:
        domains.stop()


def _kill(kills: int, scene: Scene, chance: random.Random, own: set[int]) -> Counter[str]:
    """Let it die so often, and look after each death."""
    agent = scene.agent
    scene.node.grant(POLICIES[0], scene.node.namespaces[0])
    begun = time.monotonic()
    agent.start()
    agent.wait_until_it_says('"started"', SETTLED_SECONDS)
    start = time.monotonic() - begun
    agent.wait_until_it_says("processes enrolled", SETTLED_SECONDS)
    # A machine that is busy gets its time, so what this one takes is the measure.
    deeds = min(LONGEST_DEEDS, time.monotonic() - begun - start)
    print(f"{start:.2f} s to start, {deeds:.2f} s from there to the first enrolment")
    how = Counter[str]()
    for _ in range(kills):
        if not agent.pid:
            agent.start()
        if chance.random() < 0.1:
            scene.life.go_on_for(chance.uniform(0, start))
        else:
            scene.life.go_on_until(lambda: agent.goes_on_and_said('"started"'))
            scene.life.go_on_for(chance.uniform(0, 0.5 + 2 * deeds))
        if chance.random() < 0.2 and agent.kill_helper():
            how["helper"] += 1
            scene.life.go_on_for(chance.uniform(0, deeds))
        if chance.random() < 0.2 and '"started"' in agent.said:
            how["SIGTERM"] += 1
            assert agent.stop() == 0, agent.said
            assert kernel.counter("run") == 0
        else:
            how["SIGKILL"] += 1
            assert not agent.has_ended(), agent.end
            agent.kill()
        scene.assert_nobody_is_traced()
        scene.assert_record_is_true(own)
        scene.assert_nobody_was_harmed()
    return how


def _come_to_rest(scene: Scene, own: set[int], settings: dict[str, bytes]) -> None:
    """The last agent does its work to the end, and leaves nothing."""
    agent, node = scene.agent, scene.node
    node.grant(POLICIES[0], node.namespaces[0])
    for pod in node.pods:
        node.label(pod, None)
    agent.start()

    def only_the_owners_merge() -> bool:
        for pod in node.pods:
            merging = [kernel.merge_any(pid) for pid in pod.pids()]
            assert merging
            assert set(merging) - {None} == {pod.namespace == node.namespaces[0]}, pod
        return True

    wait_until(only_the_owners_merge, SETTLED_SECONDS, "all of one namespace merge")
    generation = node.release()

    wait_until(
        lambda: node.says("Released", generation)["status"] == "True",
        SETTLED_SECONDS,
        "the node is given back",
    )
    assert scene.merging() == own
    assert kernel.settings() == settings
    assert agent.stop() == 0
    assert not agent.record["containers"]
    assert not agent.record["owner"]
    assert {file.name for file in agent.state.iterdir()} == {"state.json", "agent.lock"}
    node.end_all()


# Where programs that fork all the time share processors with emulated ones, nobody else has a turn.
@pytest.mark.alone
@pytest.mark.timeout(KILLS * SECONDS_PER_KILL, func_only=True)
def test_killed_at_random_moments(agent_program: AgentProgram, own_node: OwnNode) -> None:
    """No program notices, no two domains meet, and the next agent knows all that was done."""
    kill_again_and_again(KILLS, agent_program, own_node)


@pytest.mark.soak
@pytest.mark.timeout(SOAK_KILLS * SECONDS_PER_KILL, func_only=True)
def test_soak(agent_program: AgentProgram, own_node: OwnNode) -> None:
    """What comes once in hundreds of deaths comes here."""
    kill_again_and_again(SOAK_KILLS, agent_program, own_node)
