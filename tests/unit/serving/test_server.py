"""The HTTP server against clients that do not behave."""

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http import HTTPStatus

import pytest

from ksm_operator.serving import server
from ksm_operator.serving.access import Answer, Gate, Verdict
from ksm_operator.serving.server import LONGEST_HEAD, MOST_CONNECTIONS, Route, Server

ANSWERS = {
    "good": Verdict(Answer.GRANTED),
    "weak": Verdict(Answer.FORBIDDEN, "not you"),
    "old": Verdict(Answer.UNKNOWN, "who?"),
}
GATE = Gate(lambda token: ANSWERS[token], lambda _: None)


def fail(_authorization: str | None) -> server.Reply:
    """A defect of ours."""
    raise ValueError("a defect")


ROUTES: dict[str, Route] = {
    "/healthz": lambda _: server.say(HTTPStatus.OK, "ok"),
    "/metrics": server.guarded(GATE, lambda: b"a 1\n", "text/metrics"),
    "/open": server.guarded(None, lambda: b"a 1\n", "text/metrics"),
    "/fails": fail,
}


@pytest.fixture(scope="module")
def serving() -> Iterator[Server]:
    """A server on a free port."""
    made = server.serve(0, ROUTES)
    yield made
    made.shutdown()
    made.server_close()


def ask(
    serving: Server, path: str, token: str = "", method: str = "GET"
) -> tuple[int, str, dict[str, str]]:
    """Status, body and headers of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", serving.server_address[1], timeout=10)
    try:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), dict(answer.getheaders())
    finally:
        connection.close()


def test_metrics_are_for_those_who_may(serving: Server) -> None:
    """Each answer has its own status and says in words what is missing."""
    assert ask(serving, "/metrics", "good")[:2] == (200, "a 1\n")
    assert ask(serving, "/metrics?x=1", "good")[0] == 200
    assert ask(serving, "/metrics", "weak")[:2] == (403, "not you\n")
    assert ask(serving, "/metrics", "old")[:2] == (401, "who?\n")
    status, text, headers = ask(serving, "/metrics")
    assert (status, headers["WWW-Authenticate"]) == (401, 'Bearer realm="ksm-operator"')
    assert "Authorization: Bearer TOKEN" in text
    assert ask(serving, "/healthz")[:2] == (200, "ok\n")
    assert ask(serving, "/open")[:2] == (200, "a 1\n")


@pytest.mark.parametrize("path", ["/", "/x//metrics", "/metrics/", "/METRICS", "/%6detrics"])
def test_there_is_no_way_round(serving: Server, path: str) -> None:
    """A path that is written otherwise is another path."""
    assert ask(serving, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "HEAD", "BREW"])
def test_nothing_but_get(serving: Server, method: str) -> None:
    """Nothing can be changed here; and no error page names our interpreter."""
    status, _, headers = ask(serving, "/metrics", "good", method)
    assert status == 501
    assert headers["Server"] == "ksm-operator"


def test_silent_connections_keep_no_probe_out(serving: Server) -> None:
    """A kubelet that gets no answer restarts the pod: anybody could bring that about."""
    port = serving.server_address[1]
    with ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            for _ in range(MOST_CONNECTIONS * 2)
        ]
        silent[-1].sendall(b"GET /healthz HT")
        assert ask(serving, "/healthz")[:2] == (200, "ok\n")
        threads = [one for one in threading.enumerate() if "process_request" in one.name]
        assert len(threads) <= MOST_CONNECTIONS
        assert silent[0].recv(1) == b"", "who came first went first"


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * LONGEST_HEAD,
        b"GET /metrics HTTP/1.1\r\n" + b"A: b\r\n" * LONGEST_HEAD,
        b"GET /metrics HTTP/1.1\r\nA: " + b"b" * LONGEST_HEAD,
    ],
    ids=["line", "headers", "header"],
)
def test_requests_are_short(serving: Server, head: bytes) -> None:
    """A few connections must not fill the memory of an agent, which has no limit."""
    with socket.create_connection(
        ("127.0.0.1", serving.server_address[1]), timeout=10
    ) as connection:
        try:
            connection.sendall(head)
            answer = connection.recv(1 << 16)
        except ConnectionError:  # it hung up in the middle
            answer = b""
        assert b"200" not in answer.partition(b"\r\n")[0]
    assert ask(serving, "/healthz")[0] == 200


def test_a_defect_costs_one_answer(serving: Server, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged with where it came from, and the next request is answered."""
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        ask(serving, "/fails")
    assert ask(serving, "/healthz")[0] == 200
    assert "a defect" in caplog.text
