from collections.abc import Iterator
from typing import Any, cast

import pytest

from ksm_operator.controller import facts
from ksm_operator.controller.cluster import Cluster, GoneError, UnreachableError
from ksm_operator.controller.facts import Namespace
from ksm_operator.controller.watch import Watched


def namespace(name: str, version: int) -> dict[str, Any]:
    """A namespace as metadata only."""
    return {"metadata": {"name": name, "resourceVersion": str(version)}}


class Server:
    """Answers with prepared pages and events."""

    def __init__(self) -> None:
        self.listed: list[dict[str, Any]] = []
        self.version = 10
        self.events: list[dict[str, Any]] = []
        self.broken = False

    def pages(self, _path: str, *, metadata_only: bool) -> Iterator[dict[str, Any]]:
        """Yield one page per item, and break after the first if told to."""
        assert metadata_only
        for item in self.listed:
            yield {"metadata": {"resourceVersion": str(self.version)}, "items": [item]}
            if self.broken:
                raise UnreachableError("cut")
        yield {"metadata": {"resourceVersion": str(self.version)}, "items": []}

    def watch(self, _path: str, _version: str, *, metadata_only: bool) -> Iterator[dict[str, Any]]:
        """Yield the events."""
        assert metadata_only
        yield from self.events


@pytest.fixture
def server() -> Server:
    """A server with two namespaces."""
    made = Server()
    made.listed = [namespace("a", 3), namespace("b", 4)]
    return made


class News(list[tuple[Namespace | None, Namespace | None]]):
    """What the cache told of changes."""

    def __call__(self, before: Namespace | None, after: Namespace | None) -> None:
        """Take note."""
        self.append((before, after))


@pytest.fixture
def news() -> News:
    """Nothing told yet."""
    return News()


@pytest.fixture
def restores() -> list[str]:
    """What was told of restores."""
    return []


@pytest.fixture
def watched(server: Server, news: News, restores: list[str]) -> Watched[Namespace]:
    """The cache under test, driven by hand instead of by its thread."""
    return Watched(
        cast("Cluster", server),
        "/namespaces",
        facts.namespace,
        news,
        metadata_only=True,
        restored=lambda: restores.append("restored"),
    )


def versions(watched: Watched[Namespace]) -> dict[str, str]:
    """What is known."""
    return {name: value.resource_version for name, value in watched.snapshot().items()}


def test_list_replaces_what_is_known(server: Server, watched: Watched[Namespace]) -> None:
    """What a whole list does not have any more is gone."""
    watched._list()
    server.listed, server.version = [namespace("b", 12)], 20
    watched._list()
    assert versions(watched) == {"b": "12"}


def test_broken_list_takes_nothing_away(server: Server, watched: Watched[Namespace]) -> None:
    """Absence is not removal: half a list says nothing about the other half."""
    watched._list()
    server.broken = True
    with pytest.raises(UnreachableError):
        watched._list()
    assert versions(watched) == {"a": "3", "b": "4"}


def test_own_write_is_not_undone_by_older_news(server: Server, watched: Watched[Namespace]) -> None:
    """A decision on a state from before one's own write would be made twice."""
    watched._list()
    watched.learn(namespace("a", 30))
    watched.learn(namespace("c", 31))
    server.events = [{"type": "MODIFIED", "object": namespace("a", 20)}]
    watched._follow("10")
    server.version = 20
    watched._list()
    assert versions(watched) == {"a": "30", "b": "4", "c": "31"}
    server.listed, server.version = [namespace("a", 30)], 40
    watched._list()
    assert versions(watched) == {"a": "30"}


def test_restored_etcd_is_believed(
    server: Server, watched: Watched[Namespace], restores: list[str]
) -> None:
    """After a restore from an older snapshot, what was learned since then is not true any more."""
    server.version = 50
    watched._list()
    watched.learn(namespace("c", 49))
    watched._list()
    assert not restores
    server.listed, server.version = [namespace("a", 2)], 5
    watched._list()
    assert versions(watched) == {"a": "2"}
    assert restores == ["restored"], "who watches something else by himself must know"


def test_restored_etcd_is_believed_after_events_too(
    server: Server, watched: Watched[Namespace]
) -> None:
    """The restored state may be newer than the last list and still older than what was watched."""
    watched._list()
    server.events = [{"type": "MODIFIED", "object": namespace("a", 40)}]
    watched._follow("10")
    server.version = 20
    watched._list()
    assert versions(watched) == {"a": "3", "b": "4"}


def test_old_deletion_takes_no_new_object_away(server: Server, watched: Watched[Namespace]) -> None:
    """A name that was deleted and created again by ourselves is there, whatever comes late."""
    watched._list()
    watched.learn(namespace("a", 30))
    server.events = [{"type": "DELETED", "object": namespace("a", 20)}]
    watched._follow("10")
    assert versions(watched) == {"a": "30", "b": "4"}


def test_events_are_followed(server: Server, watched: Watched[Namespace], news: News) -> None:
    """Added, changed, deleted; a bookmark only moves the position."""
    server.listed[1]["metadata"]["labels"] = {"k": "v"}
    watched._list()
    server.events = [
        {"type": "ADDED", "object": namespace("c", 11)},
        {"type": "MODIFIED", "object": namespace("b", 12)},
        {"type": "DELETED", "object": namespace("a", 13)},
        {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "50"}}},
    ]
    assert watched._follow("10") == "50"
    assert versions(watched) == {"b": "12", "c": "11"}
    told = [tuple(one and one.name for one in pair) for pair in news]
    assert told == [(None, "c"), ("b", "b"), ("a", None)]


def test_a_new_version_alone_is_no_news(
    server: Server, watched: Watched[Namespace], news: News
) -> None:
    """Thousands of kubelets renew their nodes all the time, and change nothing that is kept."""
    watched._list()
    server.events = [{"type": "MODIFIED", "object": namespace("a", 12)}]
    watched._follow("10")
    assert versions(watched)["a"] == "12"
    assert news == []


def test_a_watch_that_goes_back_in_time_is_given_up(
    server: Server, watched: Watched[Namespace]
) -> None:
    """From a position in a restored etcd's future a watch would hear nothing for a long time."""
    server.version = 30
    watched._list()
    server.events = [{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "20"}}}]
    with pytest.raises(GoneError, match="back in time"):
        watched._follow("30")


def test_too_old_a_position_is_told(server: Server, watched: Watched[Namespace]) -> None:
    """410 inside a watch means: list again."""
    status = {"code": 410, "reason": "Expired", "message": "too old resource version"}
    server.events = [{"type": "ERROR", "object": status}]
    with pytest.raises(GoneError, match="too old"):
        watched._follow("10")
