"""The API server over kept connections, cheap enough to play thousands of nodes beside it."""

from __future__ import annotations

import http.client
import ssl
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

import msgspec

from local_cluster import certificates, layout

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

JSON: Final = "application/json"
APPLY: Final = "application/apply-patch+yaml"
STRATEGIC: Final = "application/strategic-merge-patch+json"
REQUEST_SECONDS: Final = 60.0
WATCH_SECONDS: Final = 600
SILENCE_SECONDS: Final = 90.0
"""A watch sends a bookmark every minute; longer silence is a dead connection."""
GONE: Final = 410
NOT_FOUND: Final = 404
CONFLICT: Final = 409
_PAGE: Final = 500
_PATIENCE: Final = 5
"""How often a request is tried where nobody answers."""


class ApiError(Exception):
    """The API server refused, or did not answer.

    Attributes:
        code: the HTTP status; 0 where no answer came.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Person:
    """Whom the API server shall take us for.

    Attributes:
        name: the user.
        group: beyond those that every such user is in; empty for none.
        extra: what its token says besides.
    """

    name: str
    group: str = ""
    extra: tuple[tuple[str, str], ...] = ()


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None


class _Versioned(msgspec.Struct):
    metadata: _ListMeta


_EVENT: Final = msgspec.json.Decoder(_Event)
_PAGES: Final = msgspec.json.Decoder(_Page)
_VERSIONED: Final = msgspec.json.Decoder(_Versioned)


class Client:
    """Requests as root of the cluster, or as somebody else. Each thread has its connection."""

    def __init__(self) -> None:
        self._tls = ssl.create_default_context(cafile=str(certificates.AUTHORITY))
        self._tls.load_cert_chain(certificates.ADMIN.certificate, certificates.ADMIN.key)
        self._of_thread = threading.local()

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content: str = JSON,
        query: Mapping[str, str] | None = None,
        person: Person | None = None,
    ) -> bytes:
        """Return the answer, trying again where nobody answers.

        Raises:
            ApiError: the API server refused, or nobody answered for good.
        """
        url = f"{path}?{urlencode(query)}" if query else path
        raw = msgspec.json.encode(body) if body is not None else None
        headers = {"Accept": JSON, "Content-Type": content, **_impersonation(person)}
        for tried in range(1, _PATIENCE + 1):
            try:
                connection = self._connection()
                connection.request(method, url, raw, headers)
                answer = connection.getresponse()
                data = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self._of_thread.connection = None
                if tried == _PATIENCE:
                    raise ApiError(0, f"{method} {path}: {error}") from error
                time.sleep(tried)
                continue
            if answer.status == http.HTTPStatus.TOO_MANY_REQUESTS and tried < _PATIENCE:
                time.sleep(float(answer.headers.get("Retry-After", 1)))
                continue
            if answer.status >= http.HTTPStatus.BAD_REQUEST:
                raise ApiError(answer.status, f"{method} {path}: {data[:300]!r}")
            return data
        raise AssertionError("the last try returns or raises")

    def get(self, path: str) -> dict[str, Any]:
        """Return one object."""
        found: dict[str, Any] = msgspec.json.decode(self.request("GET", path))
        return found

    def list(self, path: str) -> tuple[list[msgspec.Raw], str]:
        """Return every object, undecoded, and the version to watch from."""
        items: list[msgspec.Raw] = []
        query = {"limit": str(_PAGE)}
        while True:
            page = _PAGES.decode(self.request("GET", path, query=query))
            items += page.items or []
            if not page.metadata.continue_:
                return items, page.metadata.resource_version
            query["continue"] = page.metadata.continue_

    def follow(self, path: str) -> Iterator[tuple[str, msgspec.Raw]]:
        """Yield ADDED, MODIFIED and DELETED with their objects, for ever, whatever breaks.

        After a list anew everything is ADDED again; what was deleted meanwhile is not told.
        """
        version = ""
        while True:
            try:
                if not version:
                    items, version = self.list(path)
                    for item in items:
                        yield "ADDED", item
                for kind, item in self._watch(path, version):
                    version = _VERSIONED.decode(item).metadata.resource_version
                    if kind != "BOOKMARK":
                        yield kind, item
            except ApiError as error:
                if error.code == GONE:
                    version = ""
                time.sleep(1.0)

    def _watch(self, path: str, version: str) -> Iterator[tuple[str, msgspec.Raw]]:
        query = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        connection = self._connect(SILENCE_SECONDS)
        try:
            connection.request("GET", f"{path}?{urlencode(query)}", headers={"Accept": JSON})
            answer = connection.getresponse()
            if answer.status != http.HTTPStatus.OK:
                raise ApiError(answer.status, f"watch of {path}: {answer.read(300)!r}")
            rest = b""
            while chunk := answer.read1(1 << 16):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in filter(None, lines):
                    event = _EVENT.decode(line)
                    if event.type == "ERROR":
                        code = msgspec.json.decode(event.object).get("code", 0)
                        raise ApiError(code, f"watch of {path}")
                    yield event.type, event.object
        except (OSError, http.client.HTTPException, msgspec.DecodeError) as error:
            raise ApiError(0, f"watch of {path}: {error}") from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPSConnection:
        known: http.client.HTTPSConnection | None
        known = getattr(self._of_thread, "connection", None)
        if known is None:
            known = self._of_thread.connection = self._connect(REQUEST_SECONDS)
        return known

    def _connect(self, seconds: float) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(
            layout.HOST_ADDRESS, layout.API_PORT, timeout=seconds, context=self._tls
        )


def _impersonation(person: Person | None) -> dict[str, str]:
    if person is None:
        return {}
    headers = {"Impersonate-User": person.name}
    if person.group:
        headers["Impersonate-Group"] = person.group
    for key, value in person.extra:
        headers[f"Impersonate-Extra-{quote(key, safe='')}"] = value
    return headers
