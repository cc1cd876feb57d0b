"""What the API server is asked, and what its answers mean."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.serving.access import Answer, ReviewError
from ksm_operator.serving.reviews import (
    ACCESS_REVIEWS,
    STRANGER,
    TOKEN_REVIEWS,
    reviewer,
    user_of,
    verdict_on,
)

PROMETHEUS: dict[str, Any] = {
    "username": "system:serviceaccount:monitoring:prometheus",
    "uid": "u",
    "groups": ["system:serviceaccounts"],
    "extra": {"authentication.kubernetes.io/pod-name": ["p"]},
}


class ApiServer:
    """Answers with what it was made with, and keeps what it was asked."""

    def __init__(self, token: Any, access: Any) -> None:
        self.answers = {TOKEN_REVIEWS: token, ACCESS_REVIEWS: access}
        self.asked: list[tuple[str, Any]] = []

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Answer one review."""
        self.asked.append((path, body["spec"]))
        return {**body, "status": self.answers[path]}


def known(**access: Any) -> ApiServer:
    """It knows the token."""
    return ApiServer({"authenticated": True, "user": PROMETHEUS}, access)


def test_both_questions_are_asked() -> None:
    """The account is asked about with everything that an authorizer may look at."""
    server = known(allowed=True)
    assert reviewer(server.post)("t").answer is Answer.GRANTED
    (first, token), (second, access) = server.asked
    assert (first, token) == (TOKEN_REVIEWS, {"token": "t"})
    assert second == ACCESS_REVIEWS
    assert access == {
        "user": PROMETHEUS["username"],
        "uid": "u",
        "groups": ["system:serviceaccounts"],
        "extra": PROMETHEUS["extra"],
        "nonResourceAttributes": {"path": "/metrics", "verb": "get"},
    }


def test_a_stranger_is_not_asked_about() -> None:
    """An unknown token has no account whose rights could be looked at."""
    server = ApiServer({"authenticated": False, "error": "expired"}, None)
    assert reviewer(server.post)("t") == STRANGER
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "access", [{"allowed": False}, {}, {"allowed": True, "denied": True}, {"allowed": "yes"}]
)
def test_only_a_plain_yes_lets_in(access: dict[str, Any]) -> None:
    """And whoever is refused reads who he is to the API server, and what he lacks."""
    verdict = reviewer(known(**access).post)("t")
    assert verdict.answer is Answer.FORBIDDEN
    assert PROMETHEUS["username"] in verdict.words
    assert "nonResourceURL /metrics" in verdict.words


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(JSON, JSON)
def test_odd_answers_let_nobody_in(status: Any, user: Any) -> None:
    """Whatever stands between us and the API server may answer anything."""
    for answer in (status, {"status": status}, {"status": {"authenticated": True, "user": user}}):
        try:
            found = user_of(answer)
        except ReviewError:
            continue
        assert found is None or answer["status"]["authenticated"] is True


@given(JSON)
def test_an_odd_verdict_lets_nobody_in(status: Any) -> None:
    """As above."""
    found = user_of({"status": {"authenticated": True, "user": PROMETHEUS}})
    assert found is not None
    for answer in (status, {"status": status}):
        try:
            verdict = verdict_on(found, answer)
        except ReviewError:
            continue
        assert verdict.answer is Answer.FORBIDDEN or status["allowed"] is True
