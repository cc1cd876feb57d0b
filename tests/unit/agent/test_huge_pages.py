"""How long the answer of a look at huge pages holds."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.agent import huge_growth, huge_pages
from ksm_operator.agent.huge_pages import (
    FIRST_PAUSE,
    GROWN,
    LONGEST_PAUSE,
    Verdict,
    is_outdated,
    next_verdict,
)

MIB = 1 << 20


def no(size: int = 64 * MIB, before: Verdict | None = None, now: float = 0.0) -> Verdict:
    """It did not pay."""
    return next_verdict(before, pays=False, program=1, anonymous_bytes=size, now=now)


def test_pauses_grow_and_end_somewhere() -> None:
    """Reading memory costs CPU, and one that never paid will hardly pay now; but it may one day."""
    verdict, pauses = no(), []
    for _ in range(12):
        pauses.append(verdict.pause)
        verdict = no(before=verdict, now=verdict.again_at)
    assert pauses[0] == FIRST_PAUSE
    assert all(later == min(2 * one, LONGEST_PAUSE) for one, later in pairwise(pauses))
    assert pauses[-1] == LONGEST_PAUSE


@given(size=st.integers(1, 1 << 40), grown=st.integers(0, 1 << 41))
def test_a_process_that_has_grown_is_asked_again(size: int, grown: int) -> None:
    """What was read of it is the smaller part of what it has now."""
    assert is_outdated(no(size), 1, grown) == (grown > GROWN * size)


def test_another_program_is_asked_anew() -> None:
    """It has nothing of the memory that was looked at, and its pauses begin anew."""
    old = no(before=no())
    assert is_outdated(old, 2, 64 * MIB)
    fresh = next_verdict(old, pays=False, program=2, anonymous_bytes=MIB, now=0.0)
    assert fresh.pause == FIRST_PAUSE


def test_who_pays_is_not_asked_again_for_growing() -> None:
    """Its huge pages are split by then: there is nothing left to protect."""
    pays = next_verdict(None, pays=True, program=1, anonymous_bytes=MIB, now=0.0)
    assert not is_outdated(pays, 1, 100 * MIB)


@given(cpu=st.floats(0, 1e4))
def test_looking_for_growth_stays_cheap(cpu: float) -> None:
    """A node with thousands of processes is looked through more rarely."""
    pause = huge_growth.pause_after(cpu)
    assert pause >= huge_growth.LEAST_SECONDS
    assert cpu <= pause * huge_growth.MOST_CPU_SHARE * 1.001


@given(cpu=st.floats(0, 1e4))
def test_looks_stay_cheap_on_average(cpu: float) -> None:
    """Where jobs come and go, each with huge pages, there is always somebody who waits."""
    assert cpu <= huge_pages.pause_after(cpu) * huge_pages.AVERAGE_SHARE * 1.001
