"""Who is let through, for how long, and what it costs the API server."""

import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.serving.access import (
    AWAY_SECONDS,
    GRANTED_SECONDS,
    LONGEST_TOKEN,
    MOST_REMEMBERED,
    MOST_STRANGERS,
    REFUSED_SECONDS,
    STRANGERS_PER_SECOND,
    Answer,
    Gate,
    Pace,
    Remembered,
    ReviewError,
    Verdict,
    bearer_token,
)

GRANTED = Verdict(Answer.GRANTED)
FORBIDDEN = Verdict(Answer.FORBIDDEN, "no")


class Asked:
    """A gate whose questions are counted, and whose time stands still."""

    def __init__(self, answer: Callable[[str], Verdict] = lambda _: GRANTED) -> None:
        self.tokens: list[str] = []
        self.complaints: list[str] = []
        self.now = 1000.0
        self.answer = answer
        self.gate = Gate(self._review, self.complaints.append, lambda: self.now)

    def _review(self, token: str) -> Verdict:
        self.tokens.append(token)
        return self.answer(token)

    def judge(self, token: str = "a") -> Answer:
        """What becomes of a request with this token."""
        return self.gate.judge(f"Bearer {token}").answer


def away(_token: str) -> Verdict:
    """The API server cannot be asked."""
    raise ReviewError("connection refused")


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer a.b-c_d~e+f/g==", "a.b-c_d~e+f/g=="),
        ("bearer  abc ", "abc"),
        (None, None),
        ("", None),
        ("Bearer", None),
        ("Bearer ", None),
        ("Basic YTpi", None),
        ("Bearer a b", None),
        ("Bearer a\nb", None),
        ("Bearer ä", None),
        ("Bearer " + "a" * LONGEST_TOKEN, None),
    ],
)
def test_what_a_token_is(header: str | None, token: str | None) -> None:
    """What cannot be one is refused without a question to the API server."""
    assert bearer_token(header) == token


@given(st.text())
def test_no_header_breaks_it(text: str) -> None:
    """It comes from anybody on the network."""
    token = bearer_token(text)
    assert token is None or token.isascii()


def test_without_a_token_nobody_is_asked() -> None:
    """Whoever scans the network for ports costs the API server nothing."""
    asked = Asked()
    assert asked.gate.judge(None).answer is Answer.UNKNOWN
    assert asked.tokens == []


@pytest.mark.parametrize(
    ("verdict", "seconds"), [(GRANTED, GRANTED_SECONDS), (FORBIDDEN, REFUSED_SECONDS)]
)
def test_answers_are_remembered_for_their_time(verdict: Verdict, seconds: float) -> None:
    """A scrape each 15 s is no two requests to the API server each time, on thousands of nodes."""
    asked = Asked(lambda _: verdict)
    assert asked.judge() is verdict.answer
    asked.now += seconds - 0.1
    assert asked.judge() is verdict.answer
    assert len(asked.tokens) == 1
    asked.now += 0.2
    assert asked.judge() is verdict.answer
    assert len(asked.tokens) == 2


def test_a_right_that_was_taken_away_ends() -> None:
    """A verdict must not outlive its time for having been granted once."""
    asked = Asked()
    assert asked.judge() is Answer.GRANTED
    asked.answer = lambda _: FORBIDDEN
    asked.now += GRANTED_SECONDS + 1
    assert asked.judge() is Answer.FORBIDDEN


def test_an_api_server_away_opens_nothing() -> None:
    """Not for a stranger, nor for whoever was let through a minute ago; and it is said once."""
    asked = Asked()
    assert asked.judge() is Answer.GRANTED
    asked.answer = away
    asked.now += GRANTED_SECONDS + 1
    assert asked.judge() is Answer.UNDECIDED
    assert asked.judge("b") is Answer.UNDECIDED
    assert len(asked.tokens) == 2, "nobody waits for a second question meanwhile"
    asked.now += AWAY_SECONDS + 0.1
    assert asked.judge() is Answer.UNDECIDED
    assert asked.complaints == ["connection refused"]
    asked.answer = lambda _: GRANTED
    asked.now += AWAY_SECONDS + 0.1
    assert asked.judge() is Answer.GRANTED


def test_strangers_cost_little_and_lock_nobody_out() -> None:
    """A pod that tries tokens must neither load the API server nor keep Prometheus out."""
    asked = Asked(lambda token: GRANTED if token == "good" else FORBIDDEN)
    assert asked.judge("good") is Answer.GRANTED
    asked.now += GRANTED_SECONDS + 1
    answers = [asked.judge(f"bad{number}") for number in range(50)]
    assert answers[:STRANGERS_PER_SECOND] == [Answer.FORBIDDEN] * STRANGERS_PER_SECOND
    assert set(answers[STRANGERS_PER_SECOND:]) == {Answer.UNDECIDED}
    assert asked.judge("good") is Answer.GRANTED
    assert len(asked.tokens) == 1 + STRANGERS_PER_SECOND + 1


def test_few_strangers_wait_together() -> None:
    """A slow API server must not let them fill the places that the kubelet's probes need."""
    asking, answered = threading.Event(), threading.Event()

    def slow(_token: str) -> Verdict:
        asking.set()
        answered.wait(30)
        return FORBIDDEN

    asked = Asked(slow)
    found: list[Answer] = []
    waiting = [
        threading.Thread(target=lambda name=f"s{number}": found.append(asked.judge(name)))
        for number in range(MOST_STRANGERS + 3)
    ]
    for one in waiting:
        one.start()
    assert asking.wait(30)
    while len(found) < 3:
        time.sleep(0.001)
    assert found == [Answer.UNDECIDED] * 3, "turned away while the first still waits"
    answered.set()
    for one in waiting:
        one.join()
    assert found[3:] == [Answer.FORBIDDEN] * MOST_STRANGERS


@given(st.lists(st.floats(0, 0.5), max_size=200))
def test_the_pace_holds(gaps: list[float]) -> None:
    """Within any second no more are admitted than may be."""
    pace, now, admitted = Pace(), 0.0, []
    for gap in gaps:
        now += gap
        if pace.admits(now):
            admitted.append(now)
    for at in admitted:
        assert sum(at <= one < at + 1.0 for one in admitted) <= STRANGERS_PER_SECOND


@given(st.lists(st.tuples(st.binary(max_size=2), st.booleans()), max_size=300))
def test_memory_is_bounded(asked: list[tuple[bytes, bool]]) -> None:
    """However many tokens are tried; what is granted is not driven out by what is not."""
    remembered = Remembered()
    granted: list[bytes] = []
    for key, good in asked:
        remembered.put(key, GRANTED if good else FORBIDDEN, 0.0)
        granted = [one for one in granted if one != key] + ([key] if good else [])
        assert remembered.get(key, 1.0) is (GRANTED if good else FORBIDDEN)
    assert len(remembered._granted) + len(remembered._others) <= 2 * MOST_REMEMBERED
    for key in granted[-MOST_REMEMBERED:]:
        assert remembered.was_granted(key)
        assert remembered.get(key, GRANTED_SECONDS) is None
