"""The API server, as far as an agent needs it: list, watch, one status write.

urllib3 and nothing above it: a DaemonSet pays for every MiB once per node. A failure says nothing
about the cluster: the callers of this module change nothing because of one.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlencode

import msgspec
import urllib3

from ksm_operator.agent.wire import ListPage, WatchEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Item = TypeVar("Item")

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
PAGE: Final = 500
WHOLE_PAGE: Final = 50
"""Objects per page of a list: of metadata, and of whole objects, which are ten times as large."""
CONNECT_SECONDS: Final = 5.0
READ_SECONDS: Final = 30.0
REVIEW_SECONDS: Final = 5.0
"""Somebody waits for it with his scrape."""
SILENCE_SECONDS: Final = 90.0
"""A watch sends a bookmark every minute; after longer silence the other end is gone."""
GONE: Final = 410
"""The server no longer keeps the changes since our resourceVersion."""
_AS_LIST: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_AS_ONE: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_KEEPALIVE: Final = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    # A watch is silent for long: notice a dead peer in about half a minute.
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)


class ApiError(Exception):
    """The API server answered with an error, or not at all.

    Attributes:
        status: the HTTP status; 0 where no answer came.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Resource:
    """What is listed and watched.

    Attributes:
        path: the collection, for example ``/api/v1/pods``.
        params: selectors.
        metadata_only: ask for metadata instead of whole objects.
    """

    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    metadata_only: bool = True


@dataclass(frozen=True, slots=True)
class Access:
    """How the API server is reached.

    Attributes:
        server: its URL.
        token_file: bearer token, read anew for every request because tokens rotate.
        ca_file: certificates that the server's must be signed by.
    """

    server: str
    token_file: Path
    ca_file: Path

    @classmethod
    def in_cluster(cls, environment: Mapping[str, str] = os.environ) -> Access:
        """Return what Kubernetes gives to a pod.

        Raises:
            ApiError: this is no pod.
        """
        host = environment.get("KUBERNETES_SERVICE_HOST", "")
        port = environment.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise ApiError(
                0,
                "KUBERNETES_SERVICE_HOST is not set, so this is no pod: give --server, "
                "--token-file and --ca-file",
            )
        host = f"[{host}]" if ":" in host else host
        return cls(f"https://{host}:{port}", SERVICE_ACCOUNT / "token", SERVICE_ACCOUNT / "ca.crt")


class Client:
    """One connection pool to the API server, usable from several threads."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._pool = urllib3.PoolManager(
            maxsize=8,
            ca_certs=str(access.ca_file),
            retries=False,
            socket_options=_KEEPALIVE,
        )
        self._page = msgspec.json.Decoder(ListPage)
        self._event = msgspec.json.Decoder(WatchEvent)

    def list(
        self, resource: Resource, decode: Callable[[msgspec.Raw], Item]
    ) -> tuple[list[Item], str]:
        """Return every object, and the resourceVersion to watch from.

        Args:
            resource: which objects.
            decode: what one is kept as; one page at a time is held undecoded.

        Raises:
            ApiError: no whole list was had.
        """
        items: list[Item] = []
        size = PAGE if resource.metadata_only else WHOLE_PAGE
        position = ""
        while True:
            params = {**resource.params, "limit": str(size)}
            if position:
                params["continue"] = position
            response = self._request(
                "GET",
                resource.path,
                params,
                accept=_AS_LIST if resource.metadata_only else "application/json",
            )
            try:
                page = self._page.decode(response.data)
            except msgspec.DecodeError as error:
                raise ApiError(0, f"{resource.path}: not a list: {error}") from error
            items.extend(map(decode, page.items or ()))
            position = page.metadata.continue_
            if not position:
                return items, page.metadata.resource_version

    def watch(self, resource: Resource, version: str, seconds: int) -> Stream:
        """Open a watch that the server ends after some seconds.

        Raises:
            ApiError: it was refused; status 410 means list anew.
        """
        params = {
            **resource.params,
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(seconds),
        }
        response = self._request(
            "GET",
            resource.path,
            params,
            accept=_AS_ONE if resource.metadata_only else "application/json",
            read_seconds=SILENCE_SECONDS,
            stream=True,
        )
        return Stream(response, self._event)

    def apply_status(self, path: str, manager: str, body: Mapping[str, Any]) -> None:
        """Apply an object's status server-side; it must exist.

        Args:
            path: of the object.
            manager: our field manager: what we no longer send is removed.
            body: the object with its status.

        Raises:
            ApiError: it was not written; status 404 means that there is no such object.
        """
        self._request(
            "PATCH",
            f"{path}/status",
            {"fieldManager": manager, "force": "true"},
            body=msgspec.json.encode(body),
            content_type="application/apply-patch+yaml",
        )

    def review(self, path: str, body: Mapping[str, Any]) -> Any:
        """Create an object that only asks something, and return it with the answer.

        Raises:
            ApiError: there is no answer.
        """
        response = self._request(
            "POST",
            path,
            {},
            body=msgspec.json.encode(body),
            content_type="application/json",
            read_seconds=REVIEW_SECONDS,
        )
        try:
            return msgspec.json.decode(response.data)
        except msgspec.DecodeError as error:
            raise ApiError(0, f"{path}: not an answer: {error}") from error

    def _request(
        self,
        method: str,
        path: str,
        params: Mapping[str, str],
        *,
        accept: str = "application/json",
        body: bytes | None = None,
        content_type: str = "",
        read_seconds: float = READ_SECONDS,
        stream: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        try:
            token = self._access.token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ApiError(0, f"{self._access.token_file}: {error}") from error
        headers = {
            "Accept": accept,
            "Authorization": f"Bearer {token}",
            "User-Agent": "ksm-operator-agent",
        }
        if content_type:
            headers["Content-Type"] = content_type
        url = f"{self._access.server}{path}?{urlencode(params)}"
        try:
            response = self._pool.request(
                method,
                url,
                headers=headers,
                body=body,
                preload_content=not stream,
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=read_seconds),
            )
            if response.status < 300:  # noqa: PLR2004 - HTTP success
                return response
            text = response.data
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ApiError(0, f"{method} {path}: {error}") from error
        raise ApiError(response.status, f"{method} {path}: {_reason(response.status, text)}")


class Stream:
    """An open watch."""

    def __init__(
        self, response: urllib3.BaseHTTPResponse, decoder: msgspec.json.Decoder[WatchEvent]
    ) -> None:
        self._response = response
        self._decoder = decoder

    def __iter__(self) -> Iterator[WatchEvent]:
        """Yield events until the server ends the watch.

        Raises:
            ApiError: it broke, or the server sent an error event (410: list anew).
        """
        rest = b""
        try:
            for chunk in self._response.stream(65536):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield self._decode(line)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ApiError(0, f"watch: {error}") from error
        finally:
            self._response.close()

    def _decode(self, line: bytes) -> WatchEvent:
        try:
            event = self._decoder.decode(line)
            if event.type == "ERROR":
                status = msgspec.json.decode(event.object)
                raise ApiError(int(status.get("code", 0)), f"watch: {status.get('message')}")
        except (msgspec.DecodeError, AttributeError) as error:
            raise ApiError(0, f"watch: {error}") from error
        return event

    def interrupt(self) -> None:
        """End the watch from another thread."""
        try:
            self._response.shutdown()
        except (OSError, ValueError):
            return  # ended already


def _reason(status: int, body: bytes) -> str:
    try:
        message = msgspec.json.decode(body).get("message", "")
    except (msgspec.DecodeError, AttributeError):
        message = body[:200].decode(errors="replace")
    return f"{status} {message}"
