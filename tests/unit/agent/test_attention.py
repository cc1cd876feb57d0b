"""When containers are looked at; nobody is enrolled here."""

import time

import pytest

from ksm_operator.agent.attention import ENROL_DELAYS, Attention

PATH = "/kubepods/pod/c"


class Enrolment:
    """Says of every look what it is told to."""

    def __init__(self) -> None:
        self.postponed = False
        self.changed: list[str] = []
        self.looks: list[float] = []

    def follow_huge_pages(self) -> list[str]:
        """Nobody lives in them."""
        return []

    def follow_consent(self) -> list[str]:
        """Those of whom it was said that their pods ask now, or do not any more."""
        found, self.changed = self.changed, []
        return found

    def has_news(self, _path: str) -> bool:
        """There is always somebody new."""
        return True

    def attend(self, _path: str, _uid: str) -> bool:
        """A look."""
        self.looks.append(time.monotonic())
        return self.postponed


class Clock:
    """A clock that is turned by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """As time.monotonic."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time as attention sees it."""
    made = Clock()
    monkeypatch.setattr("time.monotonic", made)
    return made


def _run(attention: Attention, clock: Clock, seconds: float) -> bool:
    """So long, a millisecond at a time; whether all was settled in the end."""
    ends, settled = clock.now + seconds, False
    while clock.now < ends:
        clock.now += 0.001
        settled = attention.enrol([PATH], lambda _: "uid")
    return settled


def test_a_label_is_no_reason_to_wait(clock: Clock) -> None:
    """A container that was looked at for the last time is looked at again when its pod asks."""
    enrolment = Enrolment()
    attention = Attention(enrolment, lambda: False)  # type: ignore[arg-type]
    _run(attention, clock, sum(ENROL_DELAYS) + 1)
    looks = len(enrolment.looks)
    _run(attention, clock, 1)
    assert len(enrolment.looks) == looks
    enrolment.changed = [PATH]
    _run(attention, clock, 0.01)
    assert len(enrolment.looks) > looks


def test_who_is_put_off_is_tried_as_planned(clock: Clock) -> None:
    """Each try stops a thread; a glance every few milliseconds is no reason for another."""
    enrolment = Enrolment()
    enrolment.postponed = True
    attention = Attention(enrolment, lambda: False)  # type: ignore[arg-type]
    attention.appeared(PATH)
    assert not _run(attention, clock, sum(ENROL_DELAYS) + 1), "somebody is to be tried again"
    assert len(enrolment.looks) <= len(ENROL_DELAYS) + 1


def test_glances_do_not_use_up_the_looks(clock: Clock) -> None:
    """An exec that undoes an enrolment is no news to a glance: only a planned look finds it."""
    enrolment = Enrolment()
    attention = Attention(enrolment, lambda: False)  # type: ignore[arg-type]
    attention.appeared(PATH)
    _run(attention, clock, sum(ENROL_DELAYS) + 1)
    begin = enrolment.looks[0]
    late = [when - begin for when in enrolment.looks if when - begin > sum(ENROL_DELAYS) - 0.5]
    assert late, "the last planned look came"
