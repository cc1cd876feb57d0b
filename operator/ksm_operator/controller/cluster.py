"""The API server, as plain JSON: the official client's connection without its typed models.

Typed models of thousands of nodes cost hundreds of MiB and seconds; the controller keeps a few
fields of each object, so it takes the JSON and forgets the rest.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import kubernetes.config
import urllib3
from kubernetes.client import ApiClient, Configuration

FIELD_MANAGER: Final = "ksm-operator-controller"
POLICIES: Final = "/apis/ksm-operator.dev/v1alpha1/ksmpolicies"
KSM_NODES: Final = "/apis/ksm-operator.dev/v1alpha1/ksmnodes"
NODES: Final = "/api/v1/nodes"
NAMESPACES: Final = "/api/v1/namespaces"

_APPLY: Final = "application/apply-patch+yaml"
_JSON_PATCH: Final = "application/json-patch+json"
_MERGE_PATCH: Final = "application/merge-patch+json"
_METADATA_ONLY: Final = "application/json;as={kind};g=meta.k8s.io;v=v1"
_PAGE: Final = 500
_TIMEOUT_SECONDS: Final = 5.0
"""Of one request; a write must be over before another controller may take the Lease."""
_SERVER_TIMEOUT_SECONDS: Final = 290
_SILENCE_SECONDS: Final = 75.0
"""A watch sends a bookmark every minute; longer silence is a dead connection."""


class ClusterError(Exception):
    """The API server did not do what it was asked to."""


class UnreachableError(ClusterError):
    """No answer: the request may or may not have been carried out."""


@dataclass
class RefusedError(ClusterError):
    """The API server answered with an error.

    Attributes:
        code: the HTTP status.
        reason: the machine-readable reason, such as ``NotFound``.
        message: the API server's words.
        named: the object that the error is about, where the server says so.
    """

    code: int
    reason: str
    message: str
    named: str

    def __str__(self) -> str:
        return f"{self.code} {self.reason}: {self.message}"


class ConflictError(RefusedError):
    """Somebody else wrote first: what was decided is stale (409)."""


class NotFoundError(RefusedError):
    """The object, or its kind, is not there (404)."""


class GoneError(RefusedError):
    """The resource version is too old to watch from (410)."""


_ERRORS: Final[dict[int, type[RefusedError]]] = {
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
}


class Cluster:
    """Requests to one API server. Safe to use from several threads."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    @classmethod
    def connect(cls) -> "Cluster":
        """Connect as the pod's service account, or as KUBECONFIG says outside of a cluster.

        Raises:
            kubernetes.config.ConfigException: neither is there.
        """
        configuration = Configuration()
        if "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
            kubernetes.config.load_incluster_config(configuration)  # type: ignore[no-untyped-call] # not annotated
        else:
            kubernetes.config.load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call] # not annotated
        configuration.retries = False
        configuration.connection_pool_maxsize = 16
        return cls(ApiClient(configuration))

    def get(self, path: str) -> dict[str, Any]:
        """Return one object."""
        return self._request("GET", path)

    def pages(
        self, path: str, *, selector: str = "", metadata_only: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Yield a consistent list page by page, each with ``items`` and ``metadata``."""
        accept = _METADATA_ONLY.format(kind="PartialObjectMetadataList") if metadata_only else None
        query: dict[str, Any] = {"limit": _PAGE}
        if selector:
            query["labelSelector"] = selector
        while True:
            page = self._request("GET", path, query=query, accept=accept)
            yield page
            token = page["metadata"].get("continue")
            if not token:
                return
            query["continue"] = token

    def items(self, path: str, *, selector: str = "") -> list[dict[str, Any]]:
        """Return every object of a list; all or an error, never a part."""
        return [item for page in self.pages(path, selector=selector) for item in page["items"]]

    def watch(
        self, path: str, resource_version: str, *, metadata_only: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Yield watch events until the server ends the watch in good order.

        Raises:
            UnreachableError: the connection broke or fell silent.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": _SERVER_TIMEOUT_SECONDS,
        }
        accept = _METADATA_ONLY.format(kind="PartialObjectMetadata") if metadata_only else None
        response = self._open(
            "GET", path, query=query, accept=accept, timeout=(_TIMEOUT_SECONDS, _SILENCE_SECONDS)
        )
        try:
            buffer = bytearray()
            for chunk in response.stream(1 << 16):
                buffer += chunk
                *lines, rest = bytes(buffer).split(b"\n")
                buffer = bytearray(rest)
                for line in lines:
                    yield json.loads(line)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise UnreachableError(f"watch of {path} broke: {error}") from error
        finally:
            response.close()

    def create(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Create an object; an existing one is a `ConflictError`."""
        return self._request("POST", path, body=body, query={"fieldManager": FIELD_MANAGER})

    def replace(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Replace an object; stale if its resourceVersion is not the present one."""
        return self._request("PUT", path, body=body, query={"fieldManager": FIELD_MANAGER})

    def apply(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Apply server-side, taking over the fields from whoever had them."""
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return self._request("PATCH", path, body=body, query=query, content=_APPLY)

    def merge(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Merge-patch; null removes. A metadata.resourceVersion in it must be the present one."""
        query = {"fieldManager": FIELD_MANAGER}
        return self._request("PATCH", path, body=body, query=query, content=_MERGE_PATCH)

    def patch(self, path: str, operations: list[dict[str, Any]]) -> dict[str, Any]:
        """JSON-patch."""
        query = {"fieldManager": FIELD_MANAGER}
        return self._request("PATCH", path, body=operations, query=query, content=_JSON_PATCH)

    def delete(self, path: str, *, uid: str, resource_version: str) -> None:
        """Delete exactly the object, in exactly the version, that was decided on."""
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions}
        self._request("DELETE", path, body=body)

    def _request(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, Any] | None = None,
        body: Any = None,
        content: str = "application/json",
        accept: str | None = None,
    ) -> dict[str, Any]:
        response = self._open(
            method,
            path,
            query=query,
            body=body,
            content=content,
            accept=accept,
            timeout=_TIMEOUT_SECONDS,
        )
        try:
            answer: dict[str, Any] = json.loads(response.data)
        except (ValueError, urllib3.exceptions.HTTPError) as error:
            raise UnreachableError(f"{method} {path}: unreadable answer: {error}") from error
        return answer

    def _open(
        self,
        method: str,
        path: str,
        *,
        timeout: float | tuple[float, float],
        query: dict[str, Any] | None = None,
        body: Any = None,
        content: str = "application/json",
        accept: str | None = None,
    ) -> urllib3.HTTPResponse:
        headers = {"Accept": accept or "application/json", "Content-Type": content}
        request = self._api.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        url, sent_headers, sent_body = request[1], request[2], request[3]
        try:
            answer = self._api.call_api(
                method, url, sent_headers, sent_body, _request_timeout=timeout
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise UnreachableError(f"{method} {path}: {error}") from error
        response: urllib3.HTTPResponse = answer.response
        if response.status >= 400:  # noqa: PLR2004 - HTTP: from here on it is an error
            raise _refused(method, path, response)
        return response


def _refused(method: str, path: str, response: urllib3.HTTPResponse) -> ClusterError:
    try:
        status = json.loads(response.data)
    except (ValueError, urllib3.exceptions.HTTPError):
        status = {}
    return refusal(response.status, status, f"{method} {path}")


def refusal(code: int, status: dict[str, Any], request: str) -> RefusedError:
    """Return the error for a ``Status`` object of the API server."""
    kind = _ERRORS.get(code, RefusedError)
    message = status.get("message") or f"{request}: HTTP {code}"
    named = (status.get("details") or {}).get("name", "")
    return kind(code, status.get("reason") or "Unknown", message, named)
