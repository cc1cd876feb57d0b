"""A cluster set back in time: what the API server says now is older than what everybody knew."""

import queue
from pathlib import Path

import pytest

from cluster.api import KSM_NODES
from cluster.command import wait_until
from cluster.world import World
from ksm_operator.agent import client
from ksm_operator.agent.client import Access, Client, Resource
from ksm_operator.agent.news import Changed, Listed, News
from ksm_operator.agent.watcher import Watcher, decode_node
from ksm_operator.agent.wire import Node


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


def test_an_agent_hears_of_what_happens_after_a_restore(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server accepts a watch from a version that it has yet to reach, and says nothing."""
    api = world.api
    name = world.node(3)
    node = {
        "apiVersion": "ksm-operator.dev/v1alpha1",
        "kind": "KSMNode",
        "metadata": {"name": name},
    }
    api.create(KSM_NODES, {**node, "spec": {"desiredState": "Released"}})
    world.control_plane.save()
    for number in range(20):
        api.merge(f"{KSM_NODES}/{name}", {"metadata": {"labels": {"number": str(number)}}})

    monkeypatch.setattr(client, "SILENCE_SECONDS", 3.0)
    (tmp_path / "token").write_text(world.control_plane.administrator)
    access = Access(api.server, tmp_path / "token", api.authority)
    own = Resource(KSM_NODES, {"fieldSelector": f"metadata.name={name}"}, metadata_only=False)
    news: queue.SimpleQueue[News] = queue.SimpleQueue()
    watcher = Watcher(Client(access), own, news, decode_node)
    watcher.start()
    try:
        wait_until(lambda: not news.empty(), 30, "the agent has its first list")
        world.control_plane.restore()
        api.merge(f"{KSM_NODES}/{name}", {"metadata": {"labels": {"number": "after"}}})
        wait_until(lambda: "after" in _numbers(news), 30, "the agent hears of a change")
    finally:
        watcher.end()
        watcher.join(10)


def _numbers(news: queue.SimpleQueue[News]) -> set[str]:
    """The label `number` of every KSMNode that there is news of."""
    found = set()
    while not news.empty():
        one = news.get()
        items = (
            one.items if isinstance(one, Listed) else [one.item] if isinstance(one, Changed) else []
        )
        found |= {
            item.metadata.labels.get("number", "") for item in items if isinstance(item, Node)
        }
    return found
