"""A proxy before the API server that does to one client what networks and servers do to all.

Plain HTTP in, TLS out, with the client's own credentials: what it may do is decided behind.
"""

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final, Self
from urllib.parse import parse_qsl, urlsplit

from cluster.api_faults import CHUNK, Fault, Request, Rule, passes

_OWN_HEADERS: Final = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "host",
        "transfer-encoding",
    }
)
"""Each of the two connections has its own."""
_UPSTREAM_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a request.

    Attributes:
        request: what was asked.
        status: what the client was answered, 0 for nothing at all.
        carried_out: what the API server answered, 0 where it was not asked or did not answer.
        at: when that was, on the monotonic clock.
    """

    request: Request
    status: int
    carried_out: int
    at: float

    def __str__(self) -> str:
        """One line of a record."""
        request = self.request
        words = f"{request.number} {request.method} {request.path} {dict(request.query)}"
        return f"{self.at:.3f} {words}: {self.status} (behind: {self.carried_out})"


class ApiProxy:
    """A context: serves inside of it, on an address of this machine.

    Attributes:
        url: where it serves.
        rule: which fault befalls which request, from now on.
        closing: set when nothing is to be waited for any more.
    """

    def __init__(self, server: str, authority: Path) -> None:
        self.rule: Rule = passes
        self.closing = threading.Event()
        self._upstream = urlsplit(server).netloc
        self._tls = ssl.create_default_context(cafile=str(authority))
        self._lock = threading.Lock()
        self._number = 0
        self._asked: list[Request] = []
        self._done: list[Done] = []
        self._clients: set[socket.socket] = set()
        self._watches: set[socket.socket] = set()
        self._server = _Server(self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        serve = partial(self._server.serve_forever, _POLL_SECONDS)
        threading.Thread(target=serve, name="proxy", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.rule = passes
        self.closing.set()
        self._server.shutdown()
        _break(self._lock, self._clients)
        _break(self._lock, self._watches)
        # Waits for the threads of all connections.
        self._server.server_close()

    @property
    def asked(self) -> list[Request]:
        """The requests so far, whatever became or becomes of them."""
        with self._lock:
            return list(self._asked)

    @property
    def done(self) -> list[Done]:
        """What became of the requests so far, in the order of their ends."""
        with self._lock:
            return list(self._done)

    def forget(self) -> None:
        """Begin a new record."""
        with self._lock:
            self._asked.clear()
            self._done.clear()

    def cut_watches(self) -> None:
        """Break every open watch."""
        _break(self._lock, self._watches)

    def judge(self, method: str, target: str) -> tuple[Request, Fault | None]:
        """Give a request its number and its fault."""
        url = urlsplit(target)
        with self._lock:
            self._number += 1
            request = Request(self._number, method, url.path, dict(parse_qsl(url.query)))
            self._asked.append(request)
        return request, self.rule(request)

    def record(self, done: Done) -> None:
        """Remember what became of a request."""
        with self._lock:
            self._done.append(done)

    def upstream(self) -> http.client.HTTPSConnection:
        """A connection to the API server, to be opened."""
        return http.client.HTTPSConnection(
            self._upstream, context=self._tls, timeout=_UPSTREAM_SECONDS
        )

    def serving(self, client: socket.socket) -> contextlib.AbstractContextManager[None]:
        """Within it a connection is known as a client's."""
        return _kept(self._lock, self._clients, client)

    def watching(self, *ends: socket.socket) -> contextlib.AbstractContextManager[None]:
        """Within it connections are known as those of a watch."""
        return _kept(self._lock, self._watches, *ends)


@contextlib.contextmanager
def _kept(lock: threading.Lock, known: set[socket.socket], *some: socket.socket) -> Iterator[None]:
    with lock:
        known.update(some)
    try:
        yield
    finally:
        with lock:
            known.difference_update(some)


def _break(lock: threading.Lock, known: set[socket.socket]) -> None:
    with lock:
        for one in known:
            with contextlib.suppress(OSError):
                # Not `SSLSocket.shutdown`, which would wait for a reader in another thread.
                socket.socket.shutdown(one, socket.SHUT_RDWR)


class _Server(ThreadingHTTPServer):
    """Knows its proxy, and waits for its threads."""

    daemon_threads = False
    request_queue_size = 128

    def __init__(self, proxy: ApiProxy) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay quiet: a client that was killed in the middle is what tests are about."""


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def handle(self) -> None:
        """Serve one request after the other."""
        self._upstream = self.server.proxy.upstream()
        try:
            with self.server.proxy.serving(self.connection):
                super().handle()
        except OSError:
            self.close_connection = True
        finally:
            self._upstream.close()

    def _serve(self) -> None:
        Exchange(self.server.proxy, self, self._upstream).befall()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 - the base's names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Stay quiet: what was done is in the proxy's record."""


class Exchange:
    """One request of a client, and what it is answered."""

    def __init__(
        self, proxy: ApiProxy, handler: _Handler, upstream: http.client.HTTPSConnection
    ) -> None:
        self._proxy = proxy
        self._handler = handler
        self._upstream = upstream
        self._body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        self._status = 0
        self._carried_out = 0

    def befall(self) -> None:
        """Deal with it, to the end."""
        request, fault = self._proxy.judge(self._handler.command, self._handler.path)
        self._is_watch = request.is_watch
        try:
            if fault is not None:
                fault.befall(self)
            else:
                self.relay()
        except (OSError, http.client.HTTPException):
            # One end is gone; the other one shall see it.
            self._upstream.close()
            self.close()
        finally:
            done = Done(request, self._status, self._carried_out, time.monotonic())
            self._proxy.record(done)

    def relay(self) -> None:
        """Pass the request on, and the answer back."""
        if self._is_watch:
            with self.stream() as response:
                while chunk := response.read1(CHUNK):
                    self.send(chunk)
                self.end()
            return
        response = self.forward()
        self.answer(response.status, response.read(), _kept_headers(response.getheaders()))

    def forward(self) -> http.client.HTTPResponse:
        """Pass the request on, and return the answer."""
        command, target = self._handler.command, self._handler.path
        headers = _kept_headers(self._handler.headers.items())
        self._upstream.request(command, target, self._body, headers)
        response = self._upstream.getresponse()
        self._carried_out = response.status
        return response

    def answer(self, code: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Answer with a whole body."""
        self._status = code
        self._write_head({**headers, "Content-Length": str(len(body))}, body)

    @contextlib.contextmanager
    def stream(self) -> Iterator[http.client.HTTPResponse]:
        """Pass the request on, and answer with a stream; within it the connection is a watch's.

        Raises:
            ConnectionAbortedError: the API server refused; so the client was told.
        """
        handler = self._handler
        handler.close_connection = True
        response = self.forward()
        headers = _kept_headers(response.getheaders())
        if response.status != HTTPStatus.OK:
            self.answer(response.status, response.read(), headers)
            raise ConnectionAbortedError
        # A watch says nothing for a minute.
        self._upstream.sock.settimeout(None)
        with self._proxy.watching(handler.connection, self._upstream.sock):
            self._status = HTTPStatus.OK
            self._write_head({**headers, "Transfer-Encoding": "chunked"})
            try:
                yield response
            finally:
                self._upstream.close()

    def send(self, chunk: bytes) -> None:
        """Go on with a stream."""
        if chunk:
            self._handler.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))

    def end(self) -> None:
        """End a stream in good order."""
        self._handler.wfile.write(b"0\r\n\r\n")

    def close(self) -> None:
        """Break the client's connection."""
        self._handler.close_connection = True
        with contextlib.suppress(OSError):
            self._handler.connection.shutdown(socket.SHUT_RDWR)

    def pause(self, seconds: float) -> None:
        """Wait, while anybody wants an answer at all."""
        self._proxy.closing.wait(seconds)

    def wait_for(self, event: threading.Event) -> None:
        """Wait for an event, while anybody wants an answer at all."""
        while not (event.wait(_POLL_SECONDS) or self._proxy.closing.is_set()):
            pass

    def _write_head(self, headers: Mapping[str, str], body: bytes = b"") -> None:
        lines = [f"HTTP/1.1 {self._status} {HTTPStatus(self._status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        # In one piece: two small ones would wait for each other's receipt.
        self._handler.wfile.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)


def _kept_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {name: value for name, value in headers if name.lower() not in _OWN_HEADERS}
