"""What ksmd is told: its CPU limit, and how much of it is spent."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksm_operator.agent.ksmd import (
    BURST_SLEEP,
    LEAST_PAGES,
    MOST_PAGES,
    MOST_STEP,
    REST_SLEEP,
    Budget,
    resize,
    scarce,
)
from ksm_operator.agent.wire import Ksmd
from unit.agent.ksmd_simulation import PAGE, Machine, Memory

GIB = (1 << 30) // PAGE


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(20, 1000))
def test_auto_holds_the_limit(seed: int, limit: int) -> None:
    """The cost of a page changes 37-fold from second to second, and the limit holds."""
    costs = [random.Random(seed + second).choice((0.36, 2.0, 13.5)) for second in range(60)]
    machine = Machine(
        Ksmd(cpu_limit_milli_cpu=limit), Memory(64 * GIB), lambda now: costs[int(now) % 60]
    ).run(60)
    assert machine.most(10) <= 1.1 * limit / 1000


@settings(max_examples=30)
@given(st.integers(1, 100_000), st.integers(1, 1000), st.floats(0.36, 13.5), st.integers(50, 1000))
def test_fixed_holds_the_limit(pages: int, sleep: int, cost: float, limit: int) -> None:
    """Fixed keeps its numbers as written and is stopped for as long as they cost too much."""
    ksmd = Ksmd(
        tuning="Fixed", cpu_limit_milli_cpu=limit, pages_to_scan=pages, sleep_milliseconds=sleep
    )
    machine = Machine(ksmd, Memory(64 * GIB), lambda _: cost).run(30)
    # ksmd looks at `run` between batches only, so the longest batch comes on top.
    assert machine.most(10) <= 1.1 * limit / 1000 + pages * cost / 1e6 / 10
    assert {(one.pages_to_scan, one.sleep_millisecs) for one in machine.told} == {(pages, sleep)}


def test_the_advisor_is_held_to_the_limit() -> None:
    """The kernel's advisor knows a limit of its own, but not what holes in memory cost."""
    machine = Machine(
        Ksmd(tuning="Advisor", cpu_limit_milli_cpu=200), Memory(64 * GIB), lambda _: 300.0
    ).run(30)
    assert machine.most(10) <= 0.22
    assert not all(one.run for one in machine.told)


def test_a_burst_uses_the_limit() -> None:
    """New memory is merged as fast as the policy allows, or what is the limit for."""
    machine = Machine(Ksmd(cpu_limit_milli_cpu=200), Memory(64 * GIB)).run(30)
    assert 0.15 < machine.share(10) < 0.2
    assert all(one.run for one in machine.told[-1000:])


def test_it_rests_when_all_is_merged() -> None:
    """Memory that stays as it is has to be looked at a few times, not for ever."""
    memory = Memory(GIB, duplicates=GIB // 2)
    machine = Machine(Ksmd(cpu_limit_milli_cpu=200), memory).run(60)
    assert machine.merged == pytest.approx(GIB // 2, rel=0.02)
    machine.run(540)
    assert machine.share(300) < 0.01


def test_memory_in_which_nothing_is_alike_costs_next_to_nothing() -> None:
    """Who has nothing to merge must hardly feel that somebody looked."""
    machine = Machine(Ksmd(cpu_limit_milli_cpu=200), Memory(GIB)).run(600)
    assert machine.share(600) < 0.01


def test_merging_what_is_written_again_at_once_is_given_up() -> None:
    """A garbage collector's memory is alike and never stays so."""
    memory = Memory(GIB, duplicates=GIB // 2, broken=GIB / 8)
    machine = Machine(Ksmd(cpu_limit_milli_cpu=500), memory).run(900)
    assert machine.share(300) < 0.02


def test_a_new_container_is_worth_a_burst() -> None:
    """Its memory is merged in seconds however quiet the node was."""
    memory = Memory(GIB, duplicates=GIB // 2)
    machine = Machine(Ksmd(cpu_limit_milli_cpu=200), memory).run(600)
    assert machine.told[-1].sleep_millisecs == REST_SLEEP
    memory.pages += GIB // 8
    memory.duplicates += GIB // 8
    machine.containers += 1
    machine.run(2)
    assert machine.told[-1].sleep_millisecs == BURST_SLEEP
    machine.run(60)
    assert machine.merged >= 0.98 * memory.duplicates


def test_a_program_that_grows_is_worth_a_burst() -> None:
    """It was enrolled long ago; its memory is new all the same."""
    memory = Memory(GIB, duplicates=GIB // 2)
    machine = Machine(Ksmd(cpu_limit_milli_cpu=200), memory).run(600)
    memory.pages += GIB // 8
    memory.duplicates += GIB // 8
    machine.run(62)
    assert machine.merged >= 0.98 * memory.duplicates


@given(st.floats(0.01, 100.0), st.integers(1, 100_000))
@settings(max_examples=20)
def test_batches_are_bounded(cost: float, limit: int) -> None:
    """A huge batch would hold ksmd's lock for long; a batch of nothing would never scan."""
    machine = Machine(Ksmd(cpu_limit_milli_cpu=limit), Memory(64 * GIB, GIB), lambda _: cost).run(
        10
    )
    assert all(LEAST_PAGES <= one.pages_to_scan <= MOST_PAGES for one in machine.told)


def test_smart_scan_is_left_to_whoever_sets_it() -> None:
    """It is on but for a scan now and then, unless the policy says otherwise."""
    memory = Memory(GIB, duplicates=GIB // 2)
    told = Machine(Ksmd(), memory).run(1000).told
    smart = [one.smart_scan for one in told]
    assert set(smart) == {True, False}
    assert smart[0] is True
    assert Machine(Ksmd(smart_scan=True), memory).run(60).told[-1].smart_scan is None
    fixed = Ksmd(tuning="Fixed", pages_to_scan=100, sleep_milliseconds=20)
    assert Machine(fixed, memory).run(5).told[-1].smart_scan is None


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
    machine = Machine(Ksmd(start_below_available_percent=30), Memory(GIB), available=80.0).run(5)
    assert not any(one.run for one in machine.told)
    machine.available = 10.0
    machine.run(5)
    assert machine.told[-1].run
    machine.available = 80.0
    machine.run(2)
    assert not machine.told[-1].run


def test_a_burst_does_not_last_while_memory_is_plenty() -> None:
    """What comes after it waits for as long as it took, several times over."""
    machine = Machine(Ksmd(start_below_available_percent=30), Memory(GIB), available=80.0).run(100)
    machine.available = 10.0
    machine.run(60)
    pace = machine.told[-1].pace
    assert pace.period, "the burst is over"
    assert pace.done.at - pace.began.at < 60


@given(st.floats(0.01, 1.0), st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1)), max_size=50))
def test_budget_keeps_little_and_forgives_much(
    limit: float, spent: list[tuple[float, float]]
) -> None:
    """An idle hour must not allow a storm, nor one storm stop ksmd for an hour."""
    budget = Budget(0.0, 0.0)
    for seconds, share in spent:
        budget = budget.reckon(limit, budget.at + seconds, budget.cpu + seconds * share)
        assert -2.0 <= budget.left <= 0.1 * limit


@given(st.integers(LEAST_PAGES, MOST_PAGES), st.floats(0, 1), st.floats(0.001, 0.9))
def test_a_batch_is_raised_step_by_step(pages: int, share: float, aim: float) -> None:
    """The pages that come may be dearer than those that were measured."""
    assert resize(pages, share, aim) <= max(MOST_STEP * pages, LEAST_PAGES)


def test_the_first_burst_soon_uses_its_limit() -> None:
    """New pods are to be merged now, and nothing is known yet of what a page costs."""
    machine = Machine(Ksmd(cpu_limit_milli_cpu=200), Memory(64 * GIB)).run(5)
    assert machine.share(2) > 0.8 * 0.2
