"""A controller that is killed at every step of what it does: the next one finds what is true."""

import base64
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from cluster.api_faults import CutAfter, Drop, Fault, Request, passes
from cluster.api_proxy import ApiProxy
from cluster.command import Kubectl, wait_until
from cluster.control_plane import controllers_token
from cluster.controllers import LocalController, Nursery
from cluster.operator_release import NAMESPACE, RELEASE
from cluster.pods import Process, all_merge, assert_unharmed, none_merges
from cluster.stage import DOMAIN, Stage
from cluster.world import World

MOST_LIVES = 60
LIFE_SECONDS = 60
LOOK_SECONDS = 0.02
SHOT_SECONDS = 1
"""From the judgement that a write is the last one to the controller's end, at the latest."""


def kill_again_and_again(
    controller: LocalController, done: Callable[[], bool], *, fatal: int = 1
) -> int:
    """Start the controller and let a write kill it, until what is to be done is done.

    By turns it dies before that write leaves the machine, and after it was carried out but before
    the answer has come. With the first write fatal each life gets no further than to one state that
    the next one finds, and no state is left out.

    Args:
        controller: it does not run yet; it does afterwards.
        done: whether there is nothing left to do.
        fatal: which write of a life is its last one.

    Returns:
        How many lives it took.
    """
    for life in count(1):
        assert life < MOST_LIVES
        writes = count(1)

        def kill(
            request: Request, life: int = life, writes: Iterator[int] = writes
        ) -> Fault | None:
            # The DaemonSet is applied at every start, whether or not it differs.
            if not request.is_write or "daemonsets" in request.path or next(writes) < fatal:
                return None
            if life % 2:
                controller.shoot()
                return Drop()
            return CutAfter(controller.shoot)

        controller.proxy.rule = kill
        controller.start()
        wait_until(
            lambda: controller.exited or done(), LIFE_SECONDS, "it dies or is done", poll=0.02
        )
        controller.proxy.rule = passes
        if not controller.exited:
            # A write that was on its way already may still be its last one.
            time.sleep(SHOT_SECONDS)
        if not controller.exited:
            return life
    raise AssertionError


def test_killed_at_every_step(world: World) -> None:
    """From nothing to a grant, from one owner to the next, and to the deletion of both."""
    controller = world.controller()
    controller.start()
    idle = world.policy("idle", 5)
    world.wait_until_settled("idle", 5)
    controller.kill()

    amber = world.policy("amber", 0)
    lives = kill_again_and_again(controller, lambda: world.is_settled("amber", 0))
    controller.kill()
    blue = world.policy("blue", 0, priority=1)
    lives += kill_again_and_again(controller, lambda: world.is_settled("blue", 0))
    controller.kill()
    assert world.story(0) == [amber, "", blue]

    world.delete("blue")
    world.delete("amber")
    lives += kill_again_and_again(
        controller, lambda: world.is_clean(0) and not world.exists("amber", "blue")
    )
    print(f"{lives} lives")
    assert world.story(0) == [amber, "", blue, ""]
    assert world.story(5) == [idle]
    world.assert_never_wrong("idle")


def test_killed_while_it_hands_several_nodes_over(world: World) -> None:
    """Writes to different nodes are on their way at once; any part of them may arrive."""
    controller = world.controller()
    idle = world.policy("idle", 5)
    amber, blue = world.policy("amber", 0, 1, 2, 3), world.policy("blue", 0, 1, 2, 3)
    controller.start()
    world.wait_until_settled("idle", 5)
    world.wait_until_settled("amber", 0, 1, 2, 3)
    controller.kill()
    lives = 0
    for winner, fatal in (("blue", 2), ("amber", 3)):
        world.prefer(winner)
        lives += kill_again_and_again(
            controller,
            lambda winner=winner: world.is_settled(winner, 0, 1, 2, 3),  # type: ignore[misc]
            fatal=fatal,
        )
        controller.kill()
    print(f"{lives} lives")
    for number in range(4):
        assert world.story(number) == [amber, "", blue, "", amber]
    assert world.story(5) == [idle]
    world.assert_never_wrong("idle")


@pytest.fixture
def controller(
    kubectl: Kubectl, no_controller: None, nursery: Nursery, tmp_path: Path
) -> Iterator[LocalController]:
    """A controller of the local cluster, in place of the one that is installed."""
    config = kubectl.get_config()
    authority = tmp_path / "ca.crt"
    authority.write_bytes(base64.b64decode(config["certificate-authority-data"]))
    template = tmp_path / "daemonset.yaml"
    chart = kubectl.get("configmap", f"{RELEASE}-agent", "-n", NAMESPACE)
    template.write_text(chart["data"]["daemonset.yaml"])
    token = controllers_token(kubectl)
    with (
        ApiProxy(config["server"], authority) as proxy,
        LocalController(nursery, proxy, token, template) as made,
    ):
        try:
            yield made
        finally:
            if not made.exited:
                made.stop()
            print(made.log)


@contextlib.contextmanager
def _never_both(leaving: list[Process], coming: list[Process]) -> Iterator[None]:
    """Look all the time that processes of two policies never merge at once."""
    over = threading.Event()
    seen: list[str] = []

    def look() -> None:
        while not over.is_set():
            # In this order: a swap in between is no alarm.
            if not none_merges(coming) and not none_merges(leaving):
                seen.append(f"{[one.pid for one in (*leaving, *coming) if one.merges]}")
            time.sleep(LOOK_SECONDS)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert not seen, "processes of two policies merge on one node at the same time"


def test_killed_at_every_step_while_real_processes_change_hands(
    stage: Stage, controller: LocalController
) -> None:
    """What the agent is asked in between must never let two domains into the one pool."""
    red_space = stage.namespace("red", labels={DOMAIN: f"{stage.name}-red"})
    blue_space = stage.namespace("blue", labels={DOMAIN: f"{stage.name}-blue"})
    red, blue = stage.pods(red_space, 2), stage.pods(blue_space, 2)
    first, second = f"{stage.name}-red", f"{stage.name}-blue"

    def policy_for(name: str, priority: int) -> None:
        selector = {"matchLabels": {DOMAIN: name}}
        suffix = name.removeprefix(stage.name)
        stage.policy(suffix, namespaceSelector=selector, priority=priority)

    policy_for(first, 0)
    controller.start()
    stage.wait_until_ready(first)
    assert all_merge(red)
    controller.kill()

    policy_for(second, 1)
    with _never_both(red, blue):
        lives = kill_again_and_again(
            controller,
            lambda: (
                all_merge(blue)
                and stage.policy_condition(second, "Ready").get("status") == "True"
                # What an earlier life had no time to say of it, this one says at its start.
                and stage.policy_condition(first, "Conflicted").get("status") == "True"
            ),
        )
    print(f"{lives} lives")
    assert none_merges(red)
    assert_unharmed(stage.kubectl, red_space, red)
    assert_unharmed(stage.kubectl, blue_space, blue)

    stage.delete_policies()
    stage.wait_until_free()
    assert none_merges(blue)
