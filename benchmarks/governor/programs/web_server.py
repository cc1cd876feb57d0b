"""A web server that forks its workers, with a client that asks it on 127.0.0.1.

The client stands for the outside: it is started before the server is enrolled, so it never is.
Arguments: mebibytes of the table that is loaded before the fork, mebibytes of each worker's own
cache, workers, requests a second, seed of the data.
"""

from __future__ import annotations

import http.server
import json
import random
import socketserver
import subprocess
import sys
from typing import TYPE_CHECKING, Final

from benchmarks.governor.programs import life

if TYPE_CHECKING:
    import mmap

_PAGE: Final = 4096
ROWS: Final = 200
"""Records in an answer."""


class Application:
    """What a worker answers from.

    Attributes:
        records: loaded before the fork: counting references writes to what is read.
        table: loaded before the fork, never written to.
        cache: of this worker; a page of it is written for each request.
        seed: of its contents.
    """

    def __init__(self, records: list[dict[str, object]], table: mmap.mmap, seed: str) -> None:
        self.records = records
        self.table = table
        self.cache = table
        self.seed = seed

    def answer(self, number: int) -> bytes:
        """Return the body for a request."""
        chance = random.Random(f"{self.seed}/{number}")
        at = chance.randrange(len(self.cache) // _PAGE) * _PAGE
        self.cache[at : at + _PAGE] = chance.randbytes(_PAGE)
        rows = [chance.choice(self.records) for _ in range(ROWS)]
        return json.dumps({"rows": rows, "sum": sum(self.table[at : at + _PAGE])}).encode()


class Server(socketserver.TCPServer):
    """Listens once; whoever of the workers is free takes the next request.

    Attributes:
        application: what its workers answer from.
    """

    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, application: Application) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        # All workers wake up for a request, and all but one find nobody to talk to.
        self.socket.setblocking(False)
        self.application = application


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one request."""

    server: Server

    def do_GET(self) -> None:
        """Answer."""
        body = self.server.application.answer(int(self.path.removeprefix("/")))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as it is called
        """Log nothing."""


def main() -> None:
    """Serve until the end."""
    shared, cached, workers, rate = (int(word) for word in sys.argv[1:5])
    seed = sys.argv[5]
    words = [sys.executable, "-m", "benchmarks.governor.programs.web_client", str(rate)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, text=True) as client:
        assert client.stdin is not None
        life.wait_for_enrolment()
        half = shared // 2
        server = Server(Application(life.records(half), life.table(shared - half, seed), seed))
        for _ in range(workers):
            if life.fork():
                client.stdin.close()
                server.application.cache = life.table(cached, f"{seed} cache")
                server.serve_forever()
        client.stdin.write(f"{server.server_address[1]}\n")
        client.stdin.flush()
        life.say_ready()
        while not life.is_over(3600):
            pass


if __name__ == "__main__":
    main()
