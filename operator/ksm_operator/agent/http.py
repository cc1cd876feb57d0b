"""/metrics and /healthz."""

from __future__ import annotations

import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import TYPE_CHECKING, Final

from prometheus_client import CONTENT_TYPE_LATEST

if TYPE_CHECKING:
    from collections.abc import Callable

    from ksm_operator.agent.metrics import Metrics

HEALTHY_SECONDS: Final = 60.0
"""The main loop ticks several times a minute; releasing one huge process ticks with each chunk."""
REQUEST_SECONDS: Final = 10.0

_DUAL: Final = socket.has_dualstack_ipv6()


class _Server(ThreadingHTTPServer):
    """Answers on IPv4 and IPv6: a pod has the one or the other, or both."""

    address_family = socket.AF_INET6 if _DUAL else socket.AF_INET

    def server_bind(self) -> None:
        if _DUAL:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Not HTTPServer's: that one asks DNS for our own name, and DNS may be down.
        TCPServer.server_bind(self)


def serve(port: int, metrics: Metrics, silent_for: Callable[[], float]) -> ThreadingHTTPServer:
    """Answer on all addresses from a thread of its own.

    Args:
        port: TCP port; 0 takes a free one.
        metrics: what /metrics shows.
        silent_for: seconds since the main loop last ticked.

    Raises:
        OSError: the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_SECONDS

        def do_GET(self) -> None:
            silent = silent_for()
            match self.path.partition("?")[0]:
                case "/metrics":
                    self._answer(HTTPStatus.OK, metrics.exposition(), CONTENT_TYPE_LATEST)
                case "/healthz" if silent < HEALTHY_SECONDS:
                    self._answer(HTTPStatus.OK, b"ok\n")
                case "/healthz":
                    text = f"the main loop has not ticked for {silent:.0f} s\n".encode()
                    self._answer(HTTPStatus.SERVICE_UNAVAILABLE, text)
                case _:
                    self._answer(HTTPStatus.NOT_FOUND, b"/metrics or /healthz\n")

        def _answer(self, status: HTTPStatus, body: bytes, content: str = "text/plain") -> None:
            self.send_response(status)
            self.send_header("Content-Type", content)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - inherited name
            """A scrape is no decision: it is not logged."""

    server = _Server(("", port), Handler)
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return server
