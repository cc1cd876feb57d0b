"""A cluster set back in time: what the API server says now is older than what everybody knew."""

from cluster.world import World


def test_a_restored_etcd_is_believed_and_nodes_are_not_mixed(world: World) -> None:
    """After a disaster objects and their versions are those of the backup, nodes are not."""
    controller = world.controller()
    amber, blue = world.policy("amber", 0, 1), world.policy("blue", 0, 1)
    idle = world.policy("idle", 5)
    controller.start()
    world.wait_until_settled("amber", 0, 1)
    world.wait_until_settled("idle", 5)

    world.control_plane.save()
    world.prefer("blue")
    late = world.policy("late", 2)
    world.wait_until_settled("blue", 0, 1)
    world.wait_until_settled("late", 2)

    world.control_plane.restore()
    # The backup says that amber has both nodes, and knows nothing of the third.
    world.wait_until_settled("amber", 0, 1)
    new = world.policy("new", 2)
    world.wait_until_settled("new", 2)
    world.prefer("blue")
    world.wait_until_settled("blue", 0, 1)
    assert world.story(0) == world.story(1) == [amber, "", blue, "", amber, "", blue]
    assert world.story(2) == [late, "", new]
    assert world.story(5) == [idle]
