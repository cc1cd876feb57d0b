"""How soon a helper that died is followed by another."""

from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.kernel.helper import (
    DEATHS_THAT_FAIL,
    FAILING_PAUSE_SECONDS,
    FAILING_SECONDS,
    Deaths,
)


def test_one_death_costs_nothing() -> None:
    """The next request finds a new helper at once, and nobody is alarmed."""
    deaths = Deaths()
    deaths.record(100.0)
    assert deaths.count == 1
    assert not deaths.are_many(100.0)
    assert deaths.pause(100.0) == 0.0


def test_many_deaths_are_seen_and_slow_down() -> None:
    """A helper that cannot live must not be started thousands of times a minute."""
    deaths = Deaths()
    for now in (1.0, 2.0, 3.0):
        deaths.record(now)
    assert deaths.are_many(3.0)
    assert deaths.pause(3.0) == FAILING_PAUSE_SECONDS
    assert deaths.pause(3.0 + FAILING_PAUSE_SECONDS) == 0.0
    assert not deaths.are_many(1.0 + FAILING_SECONDS + 1.0)


@given(st.lists(st.floats(0, 1000), max_size=20).map(sorted), st.floats(0, 1000))
def test_many_means_many_within_the_time(times: list[float], later: float) -> None:
    """Deaths that are far apart never add up, however long the agent lives."""
    deaths = Deaths()
    for now in times:
        deaths.record(now)
    now = (times[-1] if times else 0.0) + later
    recent = [each for each in times if now - each <= FAILING_SECONDS]
    assert deaths.count == len(times)
    assert deaths.are_many(now) == (len(recent) >= DEATHS_THAT_FAIL)
    assert 0.0 <= deaths.pause(now) <= FAILING_PAUSE_SECONDS
