"""A machine whose clock is wrong: neither turns nor owners depend on what time it is."""

from datetime import UTC, datetime
from typing import Final

from cluster.api import LEASE
from cluster.command import wait_until
from cluster.world import World

HOUR: Final = 3600


def _lease_is_off_by(world: World) -> float:
    """Seconds by which the Lease was last renewed in the future."""
    renewed = datetime.fromisoformat(world.api.get(LEASE)["spec"]["renewTime"])
    return (renewed - datetime.now(UTC)).total_seconds()


def test_a_clock_that_jumps_by_an_hour_changes_nothing(world: World) -> None:
    """Clocks are set, forwards and backwards, under a controller that holds the Lease."""
    controller = world.controller()
    amber, blue = world.policy("amber", 0, 1), world.policy("blue", 0, 1)
    idle = world.policy("idle", 5)
    controller.start()
    world.wait_until_settled("amber", 0, 1)
    world.wait_until_settled("idle", 5)
    lease = world.api.get(LEASE)["spec"]
    for wrong_by, winner in ((HOUR, "blue"), (-HOUR, "amber"), (0, "blue")):
        controller.set_clock_wrong_by(wrong_by)
        world.prefer(winner)
        world.wait_until_settled(winner, 0, 1)
        wait_until(
            lambda wrong_by=wrong_by: abs(_lease_is_off_by(world) - wrong_by) < HOUR / 2,  # type: ignore[misc]
            30,
            "the Lease is renewed, by that clock",
        )
    now = world.api.get(LEASE)["spec"]
    for what in ("holderIdentity", "leaseTransitions", "acquireTime"):
        assert now[what] == lease[what]
    for number in (0, 1):
        assert world.story(number) == [amber, "", blue, "", amber, "", blue]
    assert world.story(5) == [idle]
    world.assert_never_wrong("idle")
