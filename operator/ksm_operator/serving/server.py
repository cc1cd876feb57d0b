"""A small HTTP server that nobody can hang or swell: few threads, short requests, short waits."""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.client import LineTooLong
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, Any, Final

from ksm_operator.serving.access import Answer, Gate

if TYPE_CHECKING:
    from socketserver import _RequestType

log = logging.getLogger(__name__)

MOST_CONNECTIONS: Final = 16
WAIT_SECONDS: Final = 5.0
"""For each piece of a request, and for the other end to take the answer."""
LONGEST_HEAD: Final = 32768
"""Bytes of a request line with all headers."""

_DUAL: Final = socket.has_dualstack_ipv6()


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered.

    Attributes:
        status: of HTTP.
        body: bytes.
        content: its media type.
        headers: further ones.
    """

    status: HTTPStatus
    body: bytes
    content: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] | None = None


Route = Callable[[str | None], Reply]
"""Answers a request, whose Authorization header it is given."""


def say(status: HTTPStatus, words: str) -> Reply:
    """Answer with a line of text."""
    return Reply(status, f"{words}\n".encode())


def guarded(gate: Gate | None, exposition: Callable[[], bytes], content: str) -> Route:
    """Return a route to metrics for those whom a gate lets through; to everybody without one."""

    def answer(authorization: str | None) -> Reply:
        if gate is not None:
            verdict = gate.judge(authorization)
            if verdict.answer is Answer.UNKNOWN:
                return Reply(
                    HTTPStatus.UNAUTHORIZED,
                    f"{verdict.words}\n".encode(),
                    headers={"WWW-Authenticate": 'Bearer realm="ksm-operator"'},
                )
            if verdict.answer is not Answer.GRANTED:
                return say(verdict.answer.value, verdict.words)
        return Reply(HTTPStatus.OK, exposition(), content)

    return answer


class _Head(io.BufferedIOBase):
    """The head of a request, and no more of it than anybody needs."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self._left = LONGEST_HEAD

    def readline(self, size: int | None = -1, /) -> bytes:
        most = self._left + 1
        line: bytes = self._source.readline(most if size is None or size < 0 else min(size, most))
        self._left -= len(line)
        if self._left < 0:
            raise LineTooLong("head")
        return line

    def close(self) -> None:
        self._source.close()
        super().close()


class _Handler(BaseHTTPRequestHandler):
    timeout = WAIT_SECONDS
    server: Server

    def setup(self) -> None:
        super().setup()
        self.rfile = _Head(self.rfile)

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except LineTooLong:
            self.close_connection = True

    def do_GET(self) -> None:
        route = self.server.routes.get(self.path.partition("?")[0])
        reply = (
            route(self.headers.get("Authorization"))
            if route is not None
            else say(HTTPStatus.NOT_FOUND, f"try {', '.join(self.server.routes)}")
        )
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content)
        self.send_header("Content-Length", str(len(reply.body)))
        for name, value in (reply.headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.body)

    def version_string(self) -> str:
        return "ksm-operator"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - inherited name
        """A probe or a scrape is no decision: it is not logged."""


class Server(ThreadingHTTPServer):
    """Answers on IPv4 and IPv6: a pod has the one or the other, or both.

    Attributes:
        routes: who answers which path.
    """

    address_family = socket.AF_INET6 if _DUAL else socket.AF_INET
    daemon_threads = True
    request_queue_size = 128
    """Where it is full, a connection has to be tried again after a second."""

    def __init__(self, port: int, routes: Mapping[str, Route]) -> None:
        self.routes = routes
        self._places = threading.BoundedSemaphore(MOST_CONNECTIONS)
        self._lock = threading.Lock()
        self._open: dict[_RequestType, None] = {}
        super().__init__(("", port), _Handler)

    def server_bind(self) -> None:
        """Take the port."""
        if _DUAL:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Not HTTPServer's: that one asks DNS for our own name, and DNS may be down.
        TCPServer.server_bind(self)

    def process_request(self, request: _RequestType, client_address: Any) -> None:
        """Answer in a thread; where all are taken, whoever has been there longest has to go.

        A kubelet's probe needs a millisecond. Were it turned away instead, a few connections that
        send nothing would have the pod restarted.
        """
        if not self._places.acquire(blocking=False):
            self._hang_up_on_oldest()
            if not self._places.acquire(timeout=1.0):
                self.shutdown_request(request)
                return
        with self._lock:
            self._open[request] = None
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._leave(request)
            raise

    def process_request_thread(self, request: _RequestType, client_address: Any) -> None:
        """Answer, and make room."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._leave(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - inherited
        """Log what is a defect of ours; that somebody hung up is none."""
        error = sys.exception()
        if not isinstance(error, OSError):
            log.error("a request was not answered", exc_info=error)

    def _hang_up_on_oldest(self) -> None:
        with self._lock:
            oldest = next(iter(self._open), None)
            if oldest is None:
                return
            del self._open[oldest]
        with contextlib.suppress(OSError):
            oldest.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr] # TCP: a socket

    def _leave(self, request: _RequestType) -> None:
        with self._lock:
            self._open.pop(request, None)
        self._places.release()


def serve(port: int, routes: Mapping[str, Route]) -> Server:
    """Answer on all addresses from a thread of its own.

    Args:
        port: TCP port; 0 takes a free one.
        routes: who answers which path.

    Raises:
        OSError: the port is taken.
    """
    server = Server(port, routes)
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return server
