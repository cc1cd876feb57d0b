"""Requests in the name of one account, as its own program could send them with its token."""

import http.client
import json
import ssl
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from cluster.command import Kubectl
from cluster.operator_release import NAMESPACE
from local_cluster import certificates, layout
from local_cluster.certificates import Identity

USER_AGENT: Final = "ksm-operator-tests"
"""Tells what tests try from what the operator does, in the audit log."""
_CONTENT: Final = {
    "PATCH": "application/merge-patch+json",
    "APPLY": "application/apply-patch+yaml",
}


@dataclass(frozen=True)
class Try:
    """A request that changes nothing: every write is a dry run, which admission judges in full.

    Attributes:
        method: of HTTP; APPLY for a server-side apply.
        path: of the URL.
        body: what is sent as JSON.
    """

    method: str
    path: str
    body: Any = None


@dataclass(frozen=True)
class Answer:
    """What the API server said.

    Attributes:
        code: of HTTP.
        text: an object or a Status as JSON; other things where they were asked for.
    """

    code: int
    text: str

    @property
    def body(self) -> dict[str, Any]:
        """The object or the Status."""
        parsed: dict[str, Any] = json.loads(self.text)
        return parsed

    @property
    def message(self) -> str:
        """Why it was refused."""
        return str(self.body["message"])


class Account:
    """One connection to the API server, as one user; a context that hangs up.

    Args:
        token: of a service account.
        identity: whose certificate to show instead.
    """

    def __init__(self, token: str = "", identity: Identity | None = None) -> None:
        context = ssl.create_default_context(cafile=str(certificates.AUTHORITY))
        if identity is not None:
            context.load_cert_chain(identity.certificate, identity.key)
        self._headers = {"User-Agent": USER_AGENT, "Accept": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._connection = http.client.HTTPSConnection(
            layout.HOST_ADDRESS, layout.API_PORT, timeout=20, context=context
        )

    def ask(self, request: Try) -> Answer:
        """Send a request and return the answer to it."""
        mark = "&" if "?" in request.path else "?"
        query = {
            "GET": "",
            "APPLY": f"{mark}dryRun=All&fieldManager=ksm-operator-controller&force=true",
        }.get(request.method, f"{mark}dryRun=All")
        self._connection.request(
            "PATCH" if request.method == "APPLY" else request.method,
            request.path + query,
            None if request.body is None else json.dumps(request.body),
            {
                **self._headers,
                "Content-Type": _CONTENT.get(request.method, "application/json"),
            },
        )
        answer = self._connection.getresponse()
        return Answer(answer.status, answer.read().decode(errors="replace"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()


def administrator() -> Account:
    """Who may do everything."""
    return Account(identity=certificates.ADMIN)


def kubelet() -> Account:
    """The kubelet of the cluster's node, with its own certificate."""
    return Account(identity=certificates.kubelet(layout.NODE))


def service_account(kubectl: Kubectl, name: str, *bound: str) -> Account:
    """A service account of the operator's namespace, with a token of its own.

    Args:
        kubectl: the cluster.
        name: of the service account.
        bound: options of `kubectl create token` that bind it to an object.
    """
    made = kubectl("create", "token", name, "-n", NAMESPACE, *bound)
    return Account(token=made.stdout.strip())
