"""The controller's HTTP endpoints: /healthz, /readyz and /metrics."""

import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from ksm_operator.controller.metrics import REGISTRY

_DUAL = socket.has_dualstack_ipv6()


class _Server(ThreadingHTTPServer):
    """Answers on IPv4 and IPv6: a pod has the one or the other, or both."""

    address_family = socket.AF_INET6 if _DUAL else socket.AF_INET

    def server_bind(self) -> None:
        if _DUAL:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Not HTTPServer's: that one asks DNS for our own name, and DNS may be down.
        TCPServer.server_bind(self)


Probe = Callable[[], str]
"""Returns what is wrong, empty if nothing is."""


def serve(port: int, healthy: Probe, ready: Probe) -> None:
    """Serve for as long as the process lives, from a thread of its own.

    Args:
        port: on every address of the pod.
        healthy: whether the process works; where it does not, it had better be restarted.
        ready: whether it leads and knows the cluster.

    Raises:
        OSError: the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        """Answers GET."""

        def do_GET(self) -> None:
            """Answer one request."""
            if self.path == "/metrics":
                self._answer(200, generate_latest(REGISTRY), CONTENT_TYPE_LATEST)
            elif self.path in ("/healthz", "/readyz"):
                wrong = (healthy if self.path == "/healthz" else ready)()
                code = 503 if wrong else 200
                self._answer(code, (wrong or "ok").encode() + b"\n", "text/plain")
            else:
                self._answer(404, b"try /healthz, /readyz or /metrics\n", "text/plain")

        def _answer(self, code: int, body: bytes, content_type: str) -> None:
            self.send_response(code)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
            """Stay quiet: probes come every few seconds."""

    server = _Server(("", port), Handler)
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
