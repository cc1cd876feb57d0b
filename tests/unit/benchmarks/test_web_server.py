"""The web server of a load, and the client that asks it."""

import http.client
import json
import threading
from collections.abc import Iterator

import pytest

from benchmarks.governor.programs import life
from benchmarks.governor.programs.web_server import ROWS, Application, Server


@pytest.fixture
def server() -> Iterator[Server]:
    """One with a mebibyte of everything, at work."""
    made = Server(Application(life.records(1), life.table(1, "data"), "seed"))
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def ask(server: Server, number: int) -> bytes:
    """The answer to a request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    try:
        connection.request("GET", f"/{number}")
        return connection.getresponse().read()
    finally:
        connection.close()


def test_a_request_is_answered(server: Server) -> None:
    """A load that nobody answers is none."""
    assert len(json.loads(ask(server, 1))["rows"]) == ROWS


def test_a_request_writes_to_the_cache(server: Server) -> None:
    """Or nothing that was merged would ever be written to."""
    before = server.application.cache[:]
    ask(server, 2)
    assert server.application.cache[:] != before


def test_requests_are_the_same_in_every_run(server: Server) -> None:
    """Each writes its own page with its own content, whoever of the workers takes it."""
    ask(server, 3)
    once = server.application.cache[:]
    ask(server, 3)
    assert server.application.cache[:] == once
