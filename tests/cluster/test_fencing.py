"""Two controllers at once: the one that lost its turn without noticing does no harm."""

import threading

from cluster.api_proxy import Fault, Hold, Request
from cluster.command import wait_until
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

    on_its_way, arrives = threading.Event(), threading.Event()

    def hold(request: Request) -> Fault | None:
        held = request.is_write and request.path.endswith(f"/ksmnodes/{world.node(0)}")
        return Hold(on_its_way, arrives) if held else None

    first.proxy.rule = hold
    first.hesitate(f"/ksmnodes/{world.node(1)}")
    world.prefer("blue")
    wait_until(lambda: on_its_way.is_set() and first.hesitates, 30, "both releases are decided")
    first.freeze()
    world.wait_until_settled("blue", 0, 1)

    first.proxy.forget()
    arrives.set()
    wait_until(lambda: first.proxy.done, 30, "the write that was on its way has arrived")
    first.go_on()
    first.thaw()
    assert first.wait_for_exit() == 1
    assert "leadership lost" in first.said
    late = [one for one in first.proxy.done if one.request.is_write]
    assert {one.carried_out for one in late} <= {0, 409}, late
    assert 409 in {one.carried_out for one in late}
    # The other one goes on undisturbed.
    world.prefer("amber")
    world.wait_until_settled("amber", 0, 1)
    assert not second.exited
    assert world.story(0) == world.story(1) == [amber, "", blue, "", amber]
    assert world.story(5) == [idle]
    world.assert_never_wrong("idle")
