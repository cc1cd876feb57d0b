"""The two questions to the API server: whose token is this, and may that account read?

TokenReview and SubjectAccessReview, as kubelets and metrics servers ask them; the account that asks
needs the right to create both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ksm_operator.serving.access import Answer, ReviewError, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TOKEN_REVIEWS: Final = "/apis/authentication.k8s.io/v1/tokenreviews"  # noqa: S105 - a path
ACCESS_REVIEWS: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
PATH: Final = "/metrics"

STRANGER: Final = Verdict(
    Answer.UNKNOWN, "the API server does not know this token: it has expired, or is another's"
)


@dataclass(frozen=True, slots=True)
class User:
    """Whom a token belongs to, as the API server says.

    Attributes:
        name: for example ``system:serviceaccount:monitoring:prometheus``.
        uid: of the account.
        groups: that it is in.
        extra: what else authorizers may look at.
    """

    name: str
    uid: str
    groups: tuple[str, ...]
    extra: Mapping[str, Any]


def token_review(token: str) -> dict[str, Any]:
    """Ask whose token this is."""
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token},
    }


def user_of(answer: Any) -> User | None:
    """Return whose token it is; None where the API server does not know.

    Raises:
        ReviewError: that is no answer.
    """
    status = _status(answer)
    user: Any = status.get("user")
    if status.get("authenticated") is not True:
        return None
    try:
        return User(
            str(user["username"]),
            str(user.get("uid", "")),
            tuple(user.get("groups") or ()),
            dict(user.get("extra") or {}),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ReviewError(f"a TokenReview without its user: {status!r:.200}") from error


def access_review(user: User) -> dict[str, Any]:
    """Ask whether somebody may read the metrics."""
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": user.name,
            "uid": user.uid,
            "groups": list(user.groups),
            "extra": dict(user.extra),
            "nonResourceAttributes": {"path": PATH, "verb": "get"},
        },
    }


def verdict_on(user: User, answer: Any) -> Verdict:
    """Return what the API server decided.

    Raises:
        ReviewError: that is no answer.
    """
    status = _status(answer)
    if status.get("allowed") is True and not status.get("denied"):
        return Verdict(Answer.GRANTED)
    return Verdict(
        Answer.FORBIDDEN,
        f"{user.name} may not get the nonResourceURL {PATH}: bind it to a ClusterRole that says so",
    )


def reviewer(post: Callable[[str, dict[str, Any]], Any]) -> Callable[[str], Verdict]:
    """Return what puts a token to the API server.

    Args:
        post: sends an object to a collection and returns the API server's; raises `ReviewError`.
    """

    def review(token: str) -> Verdict:
        user = user_of(post(TOKEN_REVIEWS, token_review(token)))
        if user is None:
            return STRANGER
        return verdict_on(user, post(ACCESS_REVIEWS, access_review(user)))

    return review


def _status(answer: Any) -> dict[str, Any]:
    status = answer.get("status") if isinstance(answer, dict) else None
    if not isinstance(status, dict):
        raise ReviewError(f"an answer without a status: {answer!r:.200}")
    return status
