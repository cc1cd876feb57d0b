"""The CPU limit of ksmd."""

from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.agent.ksmd import (
    INTERVAL,
    LEAST_PAGES,
    MOST_PAGES,
    Sample,
    Scanning,
    decide,
    scarce,
    start,
)
from ksm_operator.agent.wire import Ksmd


def simulate(ksmd: Ksmd, costs: list[float]) -> tuple[float, list[Scanning]]:
    """Run ksmd against the controller; return CPU seconds per second and what it was told.

    Args:
        ksmd: the tuning.
        costs: microseconds per page, one for each interval.
    """
    now = start(ksmd, 50.0)
    used, history = 0.0, []
    for cost in costs:
        batch = now.pages_to_scan * cost / 1e6
        share = batch / (batch + now.sleep_millisecs / 1000) if now.run else 0.0
        used += share * INTERVAL
        now = decide(now, ksmd, Sample(INTERVAL, int(share * INTERVAL * 1e9), 50.0))
        history.append(now)
    return used / (INTERVAL * len(costs)), history


@given(
    st.lists(st.floats(0.36, 13.5), min_size=40, max_size=200),
    st.integers(1, 2000),
)
def test_auto_holds_the_limit(costs: list[float], limit: int) -> None:
    """The cost of a page varies 37-fold, and the limit holds all the same."""
    share, _ = simulate(Ksmd(cpu_limit_milli_cpu=limit), costs)
    # One interval's overdraft is what feedback cannot know before it happened.
    assert share <= limit / 1000 + 1 / len(costs)


@given(
    st.integers(1, 1_000_000), st.integers(1, 1000), st.floats(0.36, 13.5), st.integers(10, 1000)
)
def test_fixed_holds_the_limit(pages: int, sleep: int, cost: float, limit: int) -> None:
    """Fixed keeps its numbers as written and is stopped for as long as they cost too much."""
    ksmd = Ksmd(
        tuning="Fixed", cpu_limit_milli_cpu=limit, pages_to_scan=pages, sleep_milliseconds=sleep
    )
    share, history = simulate(ksmd, [cost] * 100)
    assert share <= limit / 1000 + 1 / 100
    assert {(one.pages_to_scan, one.sleep_millisecs) for one in history} == {(pages, sleep)}


def test_auto_uses_the_limit() -> None:
    """A limit that is never used would save nothing: steady costs settle just below it."""
    _, history = simulate(Ksmd(cpu_limit_milli_cpu=200), [1.0] * 60)
    batch = history[-1].pages_to_scan * 1e-6
    assert 0.15 < batch / (batch + 0.02) < 0.2
    assert all(one.run for one in history[20:])


@given(st.floats(0.01, 100.0), st.integers(1, 100_000))
def test_batches_are_bounded(cost: float, limit: int) -> None:
    """A huge batch would hold ksmd's lock for long; a batch of nothing would never scan."""
    _, history = simulate(Ksmd(cpu_limit_milli_cpu=limit), [cost] * 30)
    assert all(LEAST_PAGES <= one.pages_to_scan <= MOST_PAGES for one in history)


def test_scarcity_has_hysteresis() -> None:
    """Around the threshold ksmd must not be switched on and off with every measurement."""
    ksmd = Ksmd(start_below_available_percent=30)
    assert not scarce(ksmd, 31.0, scanning=False)
    assert scarce(ksmd, 29.9, scanning=False)
    assert scarce(ksmd, 31.0, scanning=True)
    assert not scarce(ksmd, 32.5, scanning=True)
    assert scarce(Ksmd(), 100.0, scanning=False)
    assert not scarce(Ksmd(start_below_available_percent=0), 5.0, scanning=False)


def test_plenty_of_memory_stops_ksmd() -> None:
    """Above the threshold nothing is scanned, and the budget does not matter."""
    ksmd = Ksmd(start_below_available_percent=30)
    assert not start(ksmd, 80.0).run
    running = start(ksmd, 10.0)
    assert running.run
    assert not decide(running, ksmd, Sample(INTERVAL, 0, 80.0)).run
