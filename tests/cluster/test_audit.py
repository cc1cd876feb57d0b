"""The chart's rights against what the operator asked during all tests of this tier."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from cluster import audit
from cluster.accounts import USER_AGENT
from cluster.audit import Asked
from cluster.command import Command
from cluster.operator_release import NAMESPACE, RELEASE, installed_objects
from cluster.rights import Request, Right, rights

pytestmark = pytest.mark.cluster

BEGAN: Final = datetime(2026, 1, 1, tzinfo=UTC)
LIST_PODS: Final = Request("list", "", "pods")


def _line(
    verb: str = "list",
    user: str = "agent",
    code: int = 200,
    after: float = 1,
    about: dict[str, str] | None = None,
    **fields: Any,
) -> str:
    """A line as the API server writes it: without spaces, the user before the object."""
    event = {
        "verb": verb,
        "user": {"username": user if "/" in user else f"system:serviceaccount:ours:{user}"},
        "userAgent": "some-client/1",
        "objectRef": {"resource": "pods", **(about or {})},
        "responseStatus": {"code": code},
        "requestReceivedTimestamp": (BEGAN + timedelta(seconds=after)).isoformat(),
        **fields,
    }
    return json.dumps(event, separators=(",", ":"))


def _asked(*lines: str) -> list[Asked]:
    return list(audit.asked(lines, BEGAN, "ours"))


def test_requests_are_read_in_full() -> None:
    """Group, subresource, namespace and name decide which right it was that allowed it."""
    about = {
        "resource": "things",
        "subresource": "status",
        "apiGroup": "example.com",
        "namespace": "a",
        "name": "b",
    }
    assert _asked(_line(), _line("patch", about=about, code=403)) == [
        Asked("agent", LIST_PODS, refused=False),
        Asked("agent", Request("patch", "example.com", "things/status", "a", "b"), refused=True),
    ]


def test_an_apply_that_creates_needs_both_rights() -> None:
    """The log shows one request where RBAC asks for two verbs."""
    verbs = [one.request.verb for one in _asked(_line("patch", code=201), _line("patch"))]
    assert verbs == ["patch", "create", "patch"]


@pytest.mark.parametrize(
    "line",
    [
        _line(after=-1),
        _line(userAgent=USER_AGENT),
        _line(
            user="kubernetes/admin", impersonatedUser={"username": "system:serviceaccount:ours:a"}
        ),
        _line(user="kubernetes/admin"),
        _line(objectRef={}),
    ],
    ids=["an earlier session", "a test", "an impersonator", "somebody else", "no resource"],
)
def test_what_the_operator_did_not_ask_is_left_out(line: str) -> None:
    """A right that only tests use is not needed, and what tests are refused is no fault."""
    assert _asked(line) == []


def test_refusals_count_while_the_account_has_its_rights() -> None:
    """The last pods of an installation outlive their rights; a missing right is a fault."""
    binding = {"resource": "rolebindings", "name": "agent"}
    refused = _line(code=403)
    lines = [
        refused,
        _line("delete", "kubernetes/admin", about=binding),
        refused,
        _line("patch", "kubernetes/admin", about=binding, code=201),
        refused,
    ]
    assert _asked(*lines) == [Asked("agent", LIST_PODS, refused=True)] * 2


def test_unused_rights_are_found() -> None:
    """What no request needed stands out, also where a like one was needed."""
    used, needless = Right("list", "", "pods"), Right("get", "", "pods")
    elsewhere = Right("list", "", "pods", "default")
    assert audit.unused([used, needless, elsewhere], [LIST_PODS]) == [needless, elsewhere]


def test_every_right_is_used_and_none_is_missing(
    whole_tier: datetime, operator_installed: object, helm: Command
) -> None:
    """Least power: what no test of any feature needs is a right that nobody should have."""
    given = rights(installed_objects(helm))
    asked = list(audit.asked(audit.log(), whole_tier, NAMESPACE))
    assert set(given) == {f"{RELEASE}-{part}" for part in ("agent", "controller", "uninstall")}
    refused = sorted({f"{one.account}: {one.request}" for one in asked if one.refused})
    assert not refused, f"the chart gives too little: {refused}"
    needless = [
        f"{account}: {right}"
        for account, mine in sorted(given.items())
        for right in audit.unused(mine, (one.request for one in asked if one.account == account))
    ]
    assert not needless, f"no code uses these, or no test reaches it: {needless}"
