"""A controller that is killed at every step of what it does: the next one finds what is true."""

from collections.abc import Callable, Iterator
from itertools import count

from cluster.api_proxy import CutAfter, Drop, Fault, Request, passes
from cluster.command import wait_until
from cluster.controllers import LocalController
from cluster.world import World

MOST_LIVES = 60
LIFE_SECONDS = 60


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
        if not controller.exited:
            controller.proxy.rule = passes
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
