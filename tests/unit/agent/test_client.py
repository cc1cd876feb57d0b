"""The API client against a real HTTP server on loopback that answers from a script."""

import http.server
import json
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from ksm_operator.agent.client import Access, ApiError, Client, Resource
from ksm_operator.agent.news import Changed, Deleted, Listed, LookedUp, News
from ksm_operator.agent.watcher import Lookup, Watcher, decode_metadata
from ksm_operator.agent.wire import ObjectMeta

PODS = Resource("/api/v1/pods", {"fieldSelector": "spec.nodeName=n"})


class Script:
    """What the server answers, and what it was asked.

    Attributes:
        lists: answers to lists in turn: a status and a body; the last one again and again.
        watches: answers to watches in turn: events; an empty watch afterwards.
        asked: query, headers and body of every request.
        closed: set for watches to be ended by the server; until then they stay open.
    """

    def __init__(self) -> None:
        self.lists: list[tuple[int, dict[str, Any]]] = []
        self.watches: list[list[dict[str, Any]]] = []
        self.asked: list[tuple[dict[str, list[str]], dict[str, str], bytes]] = []
        self.closed = threading.Event()
        self.closed.set()


@pytest.fixture
def script() -> Script:
    """An empty script."""
    return Script()


@pytest.fixture
def client(script: Script, tmp_path: Path) -> Iterator[Client]:
    """A client of a server that follows the script."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            script.asked.append((query, dict(self.headers), b""))
            if "watch" in query:
                events = script.watches.pop(0) if script.watches else []
                self._stream(b"".join(json.dumps(event).encode() + b"\n" for event in events))
                return
            status, page = script.lists.pop(0) if len(script.lists) > 1 else script.lists[0]
            self._answer(status, json.dumps(page).encode())

        def do_PATCH(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            script.asked.append(({"path": [self.path]}, dict(self.headers), body))
            self._answer(200, b"{}")

        def _stream(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            if body:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(body), body))
            script.closed.wait()
            self.wfile.write(b"0\r\n\r\n")

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - inherited name
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    token = tmp_path / "token"
    token.write_text("first\n")
    yield Client(Access(f"http://127.0.0.1:{server.server_port}", token, tmp_path / "ca"))
    script.closed.set()
    server.shutdown()
    server.server_close()


def page(*names: str, version: str = "5", more: str = "") -> dict[str, Any]:
    """One page of a list."""
    items = [{"metadata": {"name": name, "uid": name}} for name in names]
    return {"metadata": {"resourceVersion": version, "continue": more}, "items": items}


def event(kind: str, name: str = "", version: str = "6") -> dict[str, Any]:
    """One event of a watch."""
    return {"type": kind, "object": {"metadata": {"name": name, "resourceVersion": version}}}


def watcher(client: Client, news: queue.SimpleQueue[News]) -> Watcher:
    """A running watcher of pods."""
    started = Watcher(client, PODS, news, decode_metadata)
    started.start()
    return started


def test_lists_are_paged(client: Client, script: Script) -> None:
    """A list of thousands comes in pages, and is told only when it is whole."""
    script.lists = [(200, page("a", more="x")), (200, page("b"))]
    items, version = client.list(PODS, decode_metadata)
    assert [item.name for item in items] == ["a", "b"]
    assert version == "5"
    assert script.asked[0][0]["limit"] == ["500"]
    assert script.asked[1][0]["continue"] == ["x"]


def test_an_empty_list_may_have_null_for_items(client: Client, script: Script) -> None:
    """That is how the API server writes metadata of nothing."""
    script.lists = [(200, {"metadata": {"resourceVersion": "5"}, "items": None})]
    assert client.list(PODS, decode_metadata) == ([], "5")


def test_metadata_only(client: Client, script: Script) -> None:
    """What an agent does not look at is not sent to it."""
    script.lists = [(200, page())]
    client.list(PODS, decode_metadata)
    query, headers, _ = script.asked[0]
    assert "as=PartialObjectMetadataList" in headers["Accept"]
    assert query["fieldSelector"] == ["spec.nodeName=n"]


def test_whole_objects_come_in_small_pages(client: Client, script: Script) -> None:
    """A node may have a thousand pods that have ended, and an agent has little memory."""
    script.lists = [(200, page())]
    client.list(Resource("/api/v1/pods", metadata_only=False), decode_metadata)
    query, headers, _ = script.asked[0]
    assert headers["Accept"] == "application/json"
    assert query["limit"] == ["50"]


def test_tokens_are_read_anew(client: Client, script: Script, tmp_path: Path) -> None:
    """A projected token lives for an hour; the agent lives for months."""
    script.lists = [(200, page())]
    client.list(PODS, decode_metadata)
    (tmp_path / "token").write_text("second\n")
    client.list(PODS, decode_metadata)
    sent = [headers["Authorization"] for _, headers, _ in script.asked]
    assert sent == ["Bearer first", "Bearer second"]


def test_errors_carry_the_servers_words(client: Client, script: Script) -> None:
    """A forbidden request is found in the log, not by guessing."""
    script.lists = [(403, {"message": "pods is forbidden"})]
    with pytest.raises(ApiError, match="403 pods is forbidden") as caught:
        client.list(PODS, decode_metadata)
    assert caught.value.status == 403


def test_no_server(tmp_path: Path) -> None:
    """An unreachable server is an error like another, never an empty list."""
    (tmp_path / "token").touch()
    unreachable = Client(Access("http://127.0.0.1:1", tmp_path / "token", tmp_path / "ca"))
    with pytest.raises(ApiError) as caught:
        unreachable.list(PODS, decode_metadata)
    assert caught.value.status == 0


def test_status_is_applied(client: Client, script: Script) -> None:
    """Server-side apply under our own field manager: what we no longer send goes away."""
    client.apply_status("/apis/g/v1/ksmnodes/n", "ksm-operator-agent", {"status": {}})
    query, headers, body = script.asked[0]
    assert query["path"] == [
        "/apis/g/v1/ksmnodes/n/status?fieldManager=ksm-operator-agent&force=true"
    ]
    assert headers["Content-Type"] == "application/apply-patch+yaml"
    assert json.loads(body) == {"status": {}}


def test_in_cluster_needs_a_pod() -> None:
    """Outside of a pod the message names the flags to use instead."""
    with pytest.raises(ApiError, match="--server"):
        Access.in_cluster({})
    access = Access.in_cluster({"KUBERNETES_SERVICE_HOST": "fd00::1"})
    assert access.server == "https://[fd00::1]:443"


def test_watch_follows_the_list(client: Client, script: Script) -> None:
    """Events arrive in order, and a bookmark moves the place to go on from."""
    script.lists = [(200, page("a"))]
    script.watches = [
        [event("ADDED", "b"), event("BOOKMARK", version="9")],
        [event("DELETED", "a", "10")],
    ]
    news: queue.SimpleQueue[News] = queue.SimpleQueue()
    running = watcher(client, news)
    listed, added, deleted = (news.get(timeout=10) for _ in range(3))
    running.end()
    assert isinstance(listed, Listed)
    assert isinstance(added, Changed)
    assert isinstance(deleted, Deleted)
    versions = [query["resourceVersion"] for query, _, _ in script.asked if "watch" in query]
    assert versions[:2] == [["5"], ["9"]]


def test_too_old_a_version_lists_anew(client: Client, script: Script) -> None:
    """410 Gone says nothing about the objects, only that their changes are no longer kept."""
    gone = {"type": "ERROR", "object": {"code": 410, "message": "too old"}}
    script.lists = [(200, page("a")), (200, page("a", version="20"))]
    script.watches = [[gone], [event("ADDED", "b")]]
    news: queue.SimpleQueue[News] = queue.SimpleQueue()
    running = watcher(client, news)
    kinds = [type(news.get(timeout=10)) for _ in range(3)]
    running.end()
    assert kinds == [Listed, Listed, Changed]


def test_a_failed_list_tells_nothing(client: Client, script: Script) -> None:
    """Absence is not removal: while the server fails, nobody hears of an empty list."""
    script.lists = [(500, {}), (200, page("a"))]
    news: queue.SimpleQueue[News] = queue.SimpleQueue()
    running = watcher(client, news)
    first = news.get(timeout=10)
    running.end()
    assert isinstance(first, Listed)
    assert [one.name for one in first.items if isinstance(one, ObjectMeta)] == ["a"]


def test_an_ended_watch_is_no_failure(
    client: Client, script: Script, caplog: pytest.LogCaptureFixture
) -> None:
    """Other namespaces are watched after an edit; a warning would send people after a fault."""
    script.lists = [(200, page("a"))]
    script.watches = [[event("ADDED", "b")]]
    script.closed.clear()
    news: queue.SimpleQueue[News] = queue.SimpleQueue()
    running = watcher(client, news)
    for _ in range(2):
        news.get(timeout=10)
    running.end()
    running.join(timeout=10)
    assert not running.is_alive()
    assert [one for one in caplog.records if one.threadName == running.name] == []


def test_lookup_asks_until_answered(client: Client, script: Script) -> None:
    """Only a positive answer releases anything, so a failing server is asked again."""
    item = {"metadata": {"name": "web", "labels": {"ksm": "no"}}}
    script.lists = [(500, {}), (200, {"items": [item]}), (200, {"items": []})]
    news: queue.SimpleQueue[News] = queue.SimpleQueue()
    lookup = Lookup(client, news)
    lookup.start()
    lookup.ask("web")
    assert news.get(timeout=10) == LookedUp("web", {"ksm": "no"})
    lookup.ask("gone")
    assert news.get(timeout=10) == LookedUp("gone", None)
