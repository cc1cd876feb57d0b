"""An API server's JSON, for tests that look too often for kubectl."""

import json
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import urllib3

KSM_NODES: Final = "/apis/ksm-operator.dev/v1alpha1/ksmnodes"
KSM_POLICIES: Final = "/apis/ksm-operator.dev/v1alpha1/ksmpolicies"
LEASE: Final = "/apis/coordination.k8s.io/v1/namespaces/ksm-operator/leases/ksm-operator-controller"
NODES: Final = "/api/v1/nodes"
_SECONDS: Final = 20.0


class ApiFailure(Exception):  # noqa: N818 - not an error of the test: the API server may be down
    """The API server did not do what it was asked to.

    Attributes:
        code: the HTTP status, 0 where nobody answered.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code} {message}")
        self.code = code


class Api:
    """One API server, as its administrator. Usable from several threads."""

    def __init__(self, server: str, authority: Path, token: str) -> None:
        self.server = server
        self.authority = authority
        self._headers = {"Authorization": f"Bearer {token}"}
        self._pool = urllib3.PoolManager(maxsize=8, ca_certs=str(authority), retries=False)

    def close(self) -> None:
        """Close what is open."""
        self._pool.clear()

    def get(self, path: str) -> dict[str, Any]:
        """An object, or a list of them."""
        return self._ask("GET", path)

    def find(self, path: str) -> dict[str, Any] | None:
        """An object, or None where there is none."""
        try:
            return self.get(path)
        except ApiFailure as failure:
            if failure.code != HTTPStatus.NOT_FOUND:
                raise
            return None

    def items(self, path: str) -> list[dict[str, Any]]:
        """The objects of a list."""
        items: list[dict[str, Any]] = self.get(path)["items"]
        return items

    def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Create an object."""
        return self._ask("POST", path, body)

    def replace(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Replace an object."""
        return self._ask("PUT", path, body)

    def merge(self, path: str, patch: dict[str, Any]) -> dict[str, Any]:
        """Merge a patch into an object, or into its status."""
        return self._ask("PATCH", path, patch, "application/merge-patch+json")

    def apply(self, path: str, manager: str, body: dict[str, Any]) -> dict[str, Any]:
        """Apply server-side, as a program of that name."""
        query = f"?fieldManager={manager}&force=true"
        return self._ask("PATCH", path + query, body, "application/apply-patch+yaml")

    def delete(self, path: str) -> None:
        """Delete an object, or all of a list; nothing there is as good."""
        try:
            self._ask("DELETE", path)
        except ApiFailure as failure:
            if failure.code != HTTPStatus.NOT_FOUND:
                raise

    def watch(self, path: str, version: str) -> urllib3.BaseHTTPResponse:
        """Open a watch; `events` reads it, and closing its socket ends it."""
        return self._open("GET", f"{path}?watch=true&resourceVersion={version}", stream=True)

    def _ask(
        self, method: str, path: str, body: Any = None, content: str = "application/json"
    ) -> dict[str, Any]:
        response = self._open(method, path, body, content)
        answer: dict[str, Any] = json.loads(response.data)
        return answer

    def _open(
        self,
        method: str,
        path: str,
        body: Any = None,
        content: str = "application/json",
        *,
        stream: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        try:
            response = self._pool.request(
                method,
                self.server + path,
                headers={**self._headers, "Content-Type": content},
                body=None if body is None else json.dumps(body).encode(),
                timeout=urllib3.Timeout(connect=5, read=None if stream else _SECONDS),
                preload_content=not stream,
            )
            if response.status < HTTPStatus.BAD_REQUEST:
                return response
            text = response.data.decode(errors="replace")
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ApiFailure(0, f"{method} {path}: {error}") from error
        raise ApiFailure(response.status, f"{method} {path}: {text}")


def events(response: urllib3.BaseHTTPResponse) -> Iterator[dict[str, Any]]:
    """The events of an open watch until it ends, in whatever way."""
    rest = b""
    try:
        for chunk in response.stream(1 << 16):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (json.loads(line) for line in lines)
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise ApiFailure(0, f"watch: {error}") from error
    finally:
        response.close()


class Follower:
    """Tells of every state that the objects of one kind are in, whatever becomes of the server.

    Args:
        api: where they are.
        path: of their list.
        tell: called with each object, from a thread of its own.
    """

    def __init__(self, api: Api, path: str, tell: Callable[[dict[str, Any]], None]) -> None:
        self._api = api
        self._path = path
        self._tell = tell
        self._stopped = threading.Event()
        self._watch: urllib3.BaseHTTPResponse | None = None
        self._thread = threading.Thread(target=self._run, name=f"follow {path}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for it."""
        self._stopped.set()
        while self._thread.is_alive():
            watch = self._watch
            if watch is not None:
                try:
                    watch.shutdown()
                except (OSError, ValueError):  # it ended by itself
                    self._watch = None
            self._thread.join(0.05)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._follow()
            except ApiFailure:
                self._stopped.wait(0.2)

    def _follow(self) -> None:
        listed = self._api.get(self._path)
        for item in listed["items"]:
            self._tell(item)
        self._watch = self._api.watch(self._path, listed["metadata"]["resourceVersion"])
        for event in events(self._watch):
            if event["type"] in ("ADDED", "MODIFIED"):
                self._tell(event["object"])
