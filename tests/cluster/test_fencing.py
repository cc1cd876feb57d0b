"""Two controllers at once: the one that lost its turn without noticing does no harm."""

import threading

from cluster.api_faults import Fault, Hold, Request
from cluster.command import wait_until
from cluster.controllers import LOST
from cluster.world import World


def test_a_frozen_controller_writes_nothing_afterwards(world: World) -> None:
    """A machine that stands still wakes up in the middle of what it had decided long ago."""
    first, second = world.controller("controller-0"), world.controller("controller-1")
    amber, blue = world.policy("amber", 0, 1), world.policy("blue", 0, 1)
    idle = world.policy("idle", 5)
    first.start()
    world.wait_until_settled("amber", 0, 1)
    world.wait_until_settled("idle", 5)
    second.start()
    second.wait_until_it_says("standing by")

    reads, edited = threading.Event(), threading.Event()
    releases, creates, arrives = threading.Event(), threading.Event(), threading.Event()

    def hold(request: Request) -> Fault | None:
        if request.is_list and request.path.endswith("/ksmpolicies"):
            # Both edits shall meet in one decision.
            return Hold(reads, edited)
        if request.is_write and request.path.endswith(f"/ksmnodes/{world.node(0)}"):
            return Hold(releases, arrives)
        if request.is_write and request.path.endswith("/ksmnodes"):
            return Hold(creates, arrives)
        return None

    # One write is on its way, one is decided and not sent, and one has no version to go by.
    first.proxy.rule = hold
    first.hesitate(f"/ksmnodes/{world.node(1)}")
    world.prefer("blue")
    wait_until(reads.is_set, 30, "the controller reads policies")
    short = world.policy("short", 2)
    edited.set()
    wait_until(
        lambda: releases.is_set() and creates.is_set() and first.hesitates, 30, "all is decided"
    )
    first.freeze()
    world.delete("short")
    world.wait_until_settled("blue", 0, 1)
    wait_until(lambda: not world.exists("short"), 30, "the other one leads")

    first.proxy.forget()
    arrives.set()
    wait_until(
        lambda: sum(one.request.is_write for one in first.proxy.done) == 2,
        30,
        "what was on its way has arrived",
    )
    first.go_on()
    first.thaw()
    assert first.wait_for_exit() == 1
    assert LOST in first.said
    for late in first.proxy.done:
        if late.request.is_write and late.request.method != "POST":
            assert late.carried_out in (0, 409), late
    assert 409 in {late.carried_out for late in first.proxy.done if late.request.is_write}
    # A KSMNode is created only on a node that is free, and who leads takes it back.
    wait_until(lambda: world.is_clean(2), 30, "what came late is taken back")
    assert world.story(2) in ([], [short, ""])

    world.prefer("amber")
    world.wait_until_settled("amber", 0, 1)
    assert world.story(0) == world.story(1) == [amber, "", blue, "", amber]
    assert world.story(5) == [idle]
    world.assert_never_wrong("idle")
