"""Who asked the API server for what: its audit log, read while it is written."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

import msgspec

from local_cluster import controlplane

if TYPE_CHECKING:
    from collections.abc import Iterable
    from io import BufferedReader
    from pathlib import Path

CONTROLLER: Final = "system:serviceaccount:ksm-operator:ksm-operator-controller"
DAEMONSETS: Final = "system:serviceaccount:kube-system:daemon-set-controller"
READS: Final = frozenset({"get", "list", "watch"})
_POLL_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True)
class Request:
    """One request that was answered.

    Attributes:
        at: when the answer was there, seconds since the epoch.
        seconds: how long it took inside the API server.
        verb: as RBAC knows it.
        resource: with its subresource.
        name: of the object, empty for a collection.
        code: the HTTP status.
    """

    at: float
    seconds: float
    verb: str
    resource: str
    name: str
    code: int

    @property
    def writes(self) -> bool:
        """Whether it was to change something."""
        return self.verb not in READS

    @property
    def is_of_lease(self) -> bool:
        """Whether it was about the controller's own Lease."""
        return self.resource == "leases"


class _User(msgspec.Struct):
    username: str


class _Object(msgspec.Struct):
    resource: str = ""
    name: str = ""
    subresource: str = ""


class _Status(msgspec.Struct):
    code: int = 0


class _Line(msgspec.Struct, rename="camel"):
    stage: str
    verb: str
    user: _User
    request_received_timestamp: str
    stage_timestamp: str
    impersonated_user: _User | None = None
    object_ref: _Object | None = None
    response_status: _Status | None = None


class Audit:
    """What some users asked for, in the order of the answers; of the others only how much.

    Attributes:
        counts: of every user, all service accounts and nodes that are played as one each.
    """

    def __init__(self, log: Path = controlplane.AUDIT_LOG) -> None:
        self.counts: Counter[str] = Counter()
        self._log = log
        self._known: dict[str, list[Request]] = {CONTROLLER: [], DAEMONSETS: []}
        self._lines = msgspec.json.Decoder(_Line)
        threading.Thread(target=self._run, name="audit", daemon=True).start()

    def of(self, user: str, begin: float = 0.0, end: float = float("inf")) -> list[Request]:
        """Return what a user asked for between two moments, in seconds since the epoch."""
        return [one for one in tuple(self._known[user]) if begin <= one.at < end]

    def settle(self) -> None:
        """Wait until what happened until now is read; the API server writes it at once."""
        time.sleep(5 * _POLL_SECONDS)

    def _run(self) -> None:
        while True:
            try:
                with self._log.open("rb") as file:
                    self._follow(file)
            except FileNotFoundError:
                time.sleep(_POLL_SECONDS)

    def _follow(self, file: BufferedReader) -> None:
        """Read one file until it was renamed and another took its place."""
        own, rest = os.fstat(file.fileno()).st_ino, b""
        while True:
            # Asked before the read: what was written before the renaming is read in any case.
            renamed = not self._log.exists() or self._log.stat().st_ino != own
            while chunk := file.read(1 << 20):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in filter(None, lines):
                    self._take(line)
            if renamed:
                return
            time.sleep(_POLL_SECONDS)

    def _take(self, raw: bytes) -> None:
        line = self._lines.decode(raw)
        # A watch is over when its answer begins, as far as anybody counts requests.
        if (line.verb == "watch") != (line.stage == "ResponseStarted"):
            return
        user = (line.impersonated_user or line.user).username
        self.counts[_kind(user)] += 1
        if user not in self._known:
            return
        about = line.object_ref or _Object()
        at = datetime.fromisoformat(line.stage_timestamp).timestamp()
        resource = f"{about.resource}/{about.subresource}".rstrip("/")
        self._known[user].append(
            Request(
                at=at,
                seconds=at - datetime.fromisoformat(line.request_received_timestamp).timestamp(),
                verb=line.verb,
                resource=resource,
                name=about.name,
                code=line.response_status.code if line.response_status else 0,
            )
        )


def _kind(user: str) -> str:
    return "kubelets" if user.startswith("system:node:") else user


def last(requests: Iterable[Request], verb: str, resource: str) -> float | None:
    """Return when the last such request had succeeded; None if there was none."""
    found = [
        one.at
        for one in requests
        if one.verb == verb and one.resource == resource and one.code < 300  # noqa: PLR2004 - HTTP
    ]
    return max(found, default=None)
