"""What the operator's pods asked of the API server, by its audit log."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from cluster.accounts import USER_AGENT
from cluster.rights import Request, Right
from local_cluster.controlplane import AUDIT_LOG

_CREATED = 201
_FORBIDDEN = 403


@dataclass(frozen=True)
class Asked:
    """A request that was answered.

    Attributes:
        account: the service account that asked.
        request: for what.
        refused: whether it was forbidden, by RBAC or by admission.
    """

    account: str
    request: Request
    refused: bool


def log() -> Iterator[str]:
    """The lines of the cluster's audit log, the oldest first; of parts rotated away too."""
    # A rotated part has its time in its name, and sorts before the present one.
    for part in sorted(AUDIT_LOG.parent.glob(f"{AUDIT_LOG.stem}*{AUDIT_LOG.suffix}"), key=_age):
        with part.open() as lines:
            yield from lines


def _age(part: Path) -> tuple[bool, str]:
    return part == AUDIT_LOG, part.name


def asked(lines: Iterable[str], since: datetime, namespace: str) -> Iterator[Asked]:
    """What the service accounts of a namespace asked, but for what tests did in their name.

    A server-side apply that makes its object counts as a create too: RBAC asks for both. What an
    account is refused after Helm took its binding away is left out: its last pods are ending.
    """
    mark = f'"username":"system:serviceaccount:{namespace}:'
    without_rights: set[str] = set()
    for line in lines:
        # Most of the lines are about other things, and parsing is what costs.
        if mark not in line and 'rolebindings"' not in line:
            continue
        event = json.loads(line)
        about = event.get("objectRef", {})
        when = datetime.fromisoformat(event["requestReceivedTimestamp"])
        if when < since or "resource" not in about:
            continue
        user, code = event["user"]["username"], event["responseStatus"]["code"]
        account = user.removeprefix(f"system:serviceaccount:{namespace}:")
        if account == user:
            _follow(without_rights, event["verb"], about)
        elif event["userAgent"] == USER_AGENT or "impersonatedUser" in event:
            continue
        elif code != _FORBIDDEN or account not in without_rights:
            yield from _said(account, event["verb"], about, code)


def _follow(without_rights: set[str], verb: str, about: Mapping[str, str]) -> None:
    """Take in that a binding, which has its account's name, was made or deleted."""
    if about["resource"] in ("rolebindings", "clusterrolebindings"):
        if verb == "delete":
            without_rights.add(about["name"])
        elif verb in ("create", "patch"):
            without_rights.discard(about["name"])


def _said(account: str, verb: str, about: Mapping[str, str], code: int) -> Iterator[Asked]:
    part = about.get("subresource", "")
    request = Request(
        verb,
        about.get("apiGroup", ""),
        about["resource"] + (f"/{part}" if part else ""),
        about.get("namespace", ""),
        about.get("name", ""),
    )
    yield Asked(account, request, refused=code == _FORBIDDEN)
    if verb == "patch" and code == _CREATED:
        yield Asked(account, replace(request, verb="create"), refused=False)


def unused(rights: Iterable[Right], requests: Iterable[Request]) -> list[Right]:
    """Those rights that no request needed."""
    made = set(requests)
    return sorted(right for right in rights if not any(right.covers(one) for one in made))
