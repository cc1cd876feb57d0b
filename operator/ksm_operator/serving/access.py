"""Who may read the metrics, as the API server says, remembered for a short time.

How much merging saves tells, to whoever can place a page beside a victim's, what the victim holds
in memory: so the figures are not for every pod that reaches the port.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

GRANTED_SECONDS: Final = 60.0
"""How long a right that was taken away goes on."""
REFUSED_SECONDS: Final = 10.0
"""How long a right that was just given waits."""
AWAY_SECONDS: Final = 2.0
"""After a failure nobody asks the API server for so long."""
MOST_REMEMBERED: Final = 64
"""Tokens, of those that were granted and of the others each."""
STRANGERS_PER_SECOND: Final = 10
"""Tokens never granted before that are put to the API server; more are turned away unasked."""
MOST_STRANGERS: Final = 4
"""That wait for an answer together: the server has four times as many places."""
TURN_SECONDS: Final = 5.0
"""Longest wait for others' questions."""
LONGEST_TOKEN: Final = 16384

_BEARER: Final = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*) *", re.IGNORECASE)
"""RFC 6750, section 2.1."""


class Answer(Enum):
    """What becomes of a request."""

    GRANTED = HTTPStatus.OK
    UNKNOWN = HTTPStatus.UNAUTHORIZED
    FORBIDDEN = HTTPStatus.FORBIDDEN
    UNDECIDED = HTTPStatus.SERVICE_UNAVAILABLE


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer, and a sentence for whoever asked."""

    answer: Answer
    words: str = ""


NO_TOKEN: Final = Verdict(
    Answer.UNKNOWN,
    "send `Authorization: Bearer TOKEN` with the token of an account that may get the "
    "nonResourceURL /metrics",
)
TOO_MANY: Final = Verdict(Answer.UNDECIDED, "too many unknown tokens at once; try again")
AWAY: Final = Verdict(
    Answer.UNDECIDED,
    "the API server cannot be asked who you are, and nobody is let in unasked; the log says why",
)


class ReviewError(Exception):
    """The API server did not say whether a token may."""


def bearer_token(header: str | None) -> str | None:
    """Return the token of an Authorization header; None where there is none that could be one."""
    if header is None or len(header) > LONGEST_TOKEN:
        return None
    match = _BEARER.fullmatch(header)
    return match[1] if match else None


class Remembered:
    """Verdicts by a hash of their token, until they are too old. Pure: times are passed in.

    The token itself is not kept. What was granted has places of its own, which no number of
    strangers can take.
    """

    def __init__(self) -> None:
        self._granted: OrderedDict[bytes, tuple[Verdict, float]] = OrderedDict()
        self._others: OrderedDict[bytes, tuple[Verdict, float]] = OrderedDict()

    def get(self, key: bytes, now: float) -> Verdict | None:
        """Return the verdict on a token; None where it has to be asked for."""
        for kept in (self._granted, self._others):
            if key in kept and now < kept[key][1]:
                return kept[key][0]
        return None

    def was_granted(self, key: bytes) -> bool:
        """Tell whether a token is no stranger's, though its verdict may be too old."""
        return key in self._granted

    def put(self, key: bytes, verdict: Verdict, now: float) -> None:
        """Remember what the API server said of a token."""
        granted = verdict.answer is Answer.GRANTED
        self._granted.pop(key, None)
        self._others.pop(key, None)
        kept = self._granted if granted else self._others
        kept[key] = (verdict, now + (GRANTED_SECONDS if granted else REFUSED_SECONDS))
        if len(kept) > MOST_REMEMBERED:
            kept.popitem(last=False)


class Pace:
    """How many strangers' tokens may be put to the API server. Pure: times are passed in."""

    def __init__(self) -> None:
        self._latest: deque[float] = deque(maxlen=STRANGERS_PER_SECOND)

    def admits(self, now: float) -> bool:
        """Tell whether one more may, and count it if so."""
        full = len(self._latest) == STRANGERS_PER_SECOND
        if full and now - self._latest[0] < 1.0:
            return False
        self._latest.append(now)
        return True


class Gate:
    """Lets requests through whose token may; from several threads."""

    def __init__(
        self,
        review: Callable[[str], Verdict],
        complain: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Ask nothing yet.

        Args:
            review: puts a token to the API server; raises `ReviewError`.
            complain: told once when the API server cannot be asked.
            clock: in seconds.
        """
        self._review = review
        self._complain = complain
        self._clock = clock
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._strangers = threading.BoundedSemaphore(MOST_STRANGERS)
        self._remembered = Remembered()
        self._pace = Pace()
        self._away_until = float("-inf")
        self._complained = False

    def judge(self, header: str | None) -> Verdict:
        """Return what becomes of a request with this Authorization header."""
        token = bearer_token(header)
        if token is None:
            return NO_TOKEN
        key = hashlib.sha256(token.encode()).digest()
        verdict = self._known(key)
        if verdict is not None:
            return verdict
        with self._lock:
            is_stranger = not self._remembered.was_granted(key)
        if not is_stranger:
            return self._wait_and_ask(key, token, is_stranger=False)
        # While the API server is slow they must not fill the server, which probes need too.
        if not self._strangers.acquire(blocking=False):
            return TOO_MANY
        try:
            return self._wait_and_ask(key, token, is_stranger=True)
        finally:
            self._strangers.release()

    def _wait_and_ask(self, key: bytes, token: str, *, is_stranger: bool) -> Verdict:
        # One at a time: who waits may find the question answered.
        if not self._turn.acquire(timeout=TURN_SECONDS):
            return AWAY
        try:
            return self._known(key) or self._ask(key, token, is_stranger=is_stranger)
        finally:
            self._turn.release()

    def _known(self, key: bytes) -> Verdict | None:
        with self._lock:
            now = self._clock()
            verdict = self._remembered.get(key, now)
            return AWAY if verdict is None and now < self._away_until else verdict

    def _ask(self, key: bytes, token: str, *, is_stranger: bool) -> Verdict:
        if is_stranger and not self._pace.admits(self._clock()):
            return TOO_MANY
        try:
            verdict = self._review(token)
        except ReviewError as error:
            if not self._complained:
                self._complain(str(error))
            self._complained = True
            self._away_until = self._clock() + AWAY_SECONDS
            return AWAY
        self._complained = False
        with self._lock:
            self._remembered.put(key, verdict, self._clock())
        return verdict
