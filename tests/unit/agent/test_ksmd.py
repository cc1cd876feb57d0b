"""What ksmd is told: its CPU limit, and how much of it is spent."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksm_operator.agent.budget import DEAREST, MOST_LOOK, Budget
from ksm_operator.agent.ksmd import (
    BURST_SLEEP,
    LEAST_PAGES,
    MOST_PAGES,
    MOST_STEP,
    REST_SLEEP,
    meter,
    resize,
    scarce,
    start,
    unmetered,
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
@given(st.integers(1, 10**6), st.integers(1, 1000), st.floats(0.36, 13.5), st.integers(20, 1000))
def test_fixed_holds_the_limit(pages: int, sleep: int, cost: float, limit: int) -> None:
    """A batch that could not be stopped in time is divided; the pace is the policy's, or slower."""
    ksmd = Ksmd(
        tuning="Fixed", cpu_limit_milli_cpu=limit, pages_to_scan=pages, sleep_milliseconds=sleep
    )
    machine = Machine(ksmd, Memory(64 * GIB), lambda _: cost).run(30)
    assert machine.most(10) <= 1.1 * limit / 1000
    for told in machine.told:
        assert told.pages_to_scan * sleep <= pages * told.sleep_millisecs


def test_fixed_is_as_written_where_the_limit_allows_it() -> None:
    """Whoever writes the numbers is to find them in sysfs, if nothing speaks against them."""
    for limit, pages in ((200, 3000), (1000, 1_000_000)):
        ksmd = Ksmd(
            tuning="Fixed",
            cpu_limit_milli_cpu=limit,
            pages_to_scan=pages,
            sleep_milliseconds=30,
        )
        machine = Machine(ksmd, Memory(64 * GIB), lambda _: 13.5).run(20)
        assert {(one.pages_to_scan, one.sleep_millisecs) for one in machine.told} == {(pages, 30)}


@settings(max_examples=20)
@given(st.integers(1, 30_000), st.floats(0.36, 300.0), st.integers(20, 1000))
def test_what_one_batch_took_is_paid_for_in_full(pages: int, cost: float, limit: int) -> None:
    """In the long run the limit holds, also where one batch takes longer than it allows."""
    ksmd = Ksmd(tuning="Advisor", cpu_limit_milli_cpu=limit)
    batch = pages * cost / 1e6
    window = max(10.0, 10 * batch / (limit / 1000))
    machine = Machine(ksmd, Memory(64 * GIB), lambda _: cost, advised=pages).run(2 * window)
    assert machine.most(window) <= 1.1 * limit / 1000


@settings(max_examples=20)
@given(st.integers(1, 10**6), st.floats(13.5, 300.0), st.integers(20, 1000))
def test_what_batches_really_cost_is_learnt(pages: int, cost: float, limit: int) -> None:
    """Holes may make a page dearer than any page is; the first such batch has to be enough."""
    ksmd = Ksmd(
        tuning="Fixed", cpu_limit_milli_cpu=limit, pages_to_scan=pages, sleep_milliseconds=1
    )
    machine = Machine(ksmd, Memory(64 * GIB), lambda _: cost).run(60)
    machine.used = machine.used[-3000:]
    assert machine.most(10) <= 1.1 * limit / 1000


def at_rest(limit: int, gib: float) -> Machine:
    """A node whose memory was merged a while ago, for next to nothing a page."""
    memory = Memory(int(gib * GIB), duplicates=int(gib * GIB / 2))
    machine = Machine(Ksmd(cpu_limit_milli_cpu=limit), memory, lambda _: 0.36)
    while not machine.told or not machine.told[-1].pace.period:
        machine.run(10)
    return machine.run(5)


@settings(max_examples=30)
@given(
    *(st.sampled_from((20, 50, 100, 200, 500, 1000)), st.sampled_from((0.25, 1, 4, 16))),
    *(st.floats(0.5, 15), st.floats(0.05, 3)),
)
def test_auto_holds_the_limit_at_rest(limit: int, gib: float, dear: float, cheap: float) -> None:
    """The batches were chosen for pages that cost a 37th, and are looked at rarely."""
    machine = at_rest(limit, gib)
    since = machine.now
    machine.cost = lambda now: 13.5 if (now - since) % (dear + cheap) < dear else 0.36
    assert machine.run(30).most(10) <= 1.1 * limit / 1000


@pytest.mark.parametrize("limit", [20, 50, 100, 200, 500, 1000])
@pytest.mark.parametrize("hole", [50.0, 100.0, 300.0])
def test_holes_that_scans_pass_again_hold_the_limit(limit: int, hole: float) -> None:
    """They cost CPU while no page is counted; how much, only the first pass can tell."""
    machine = at_rest(limit, 4)
    since = machine.now
    machine.cost = lambda now: hole if (now - since) % 8 < 2 else 0.36
    machine.run(8)
    machine.used = machine.used[-1:]
    assert machine.run(40).most(10) <= 1.1 * limit / 1000


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
    assert all(1 <= one.pages_to_scan <= MOST_PAGES for one in machine.told)
    assert all(one.burst_pages >= LEAST_PAGES for one in machine.told)


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
def test_budget_keeps_little_and_forgives_nothing(
    limit: float, spent: list[tuple[float, float]]
) -> None:
    """An idle hour must not allow a storm, and what a storm took is waited for."""
    budget = Budget(0.0, 0.0)
    for seconds, share in spent:
        before, used = budget, seconds * share
        budget = budget.reckon(limit, before.at + seconds, before.cpu + used)
        earned = before.left + limit * seconds - used
        assert budget.left == pytest.approx(min(0.1 * limit, earned))


def test_a_wrong_measurement_does_not_stop_ksmd_for_hours() -> None:
    """A CPU time that could not be read once, or a machine that stood still with ksmd at work."""
    budget = Budget(0.0, 5000.0).reckon(0.2, 1.0, 0.0)
    assert budget.reckon(0.2, 2.0, 5000.3).left == pytest.approx(0.02 + 0.2 - 0.3)
    assert budget.reckon(0.2, 3602.0, 8600.0).left >= -MOST_LOOK


def test_an_edited_policy_pays_for_what_was_taken_before() -> None:
    """Or each edit, and each pause for others who merge, would begin with a batch for nothing."""
    ksmd = Ksmd(tuning="Advisor", cpu_limit_milli_cpu=100)
    machine = Machine(ksmd, Memory(64 * GIB), lambda _: 300.0, advised=10_000).run(2)
    last, now = machine.told[-1], machine.reading()
    assert not last.run
    edited = start(ksmd, now, PAGE, last)
    assert not edited.run
    assert edited.budget.left < -1
    assert start(ksmd, replace(now, at=now.at + 60), PAGE, last).run


@pytest.mark.parametrize("tuning", ["Auto", "Fixed", "Advisor"])
def test_what_is_owed_after_an_edit_makes_no_page_dearer(tuning: str) -> None:
    """One taken for dear would leave ksmd with batches of a page or two for an hour."""
    before = Ksmd(tuning="Advisor", cpu_limit_milli_cpu=100)
    machine = Machine(before, Memory(64 * GIB), lambda _: 300.0, advised=10_000).run(2)
    now = machine.reading()
    ksmd = Ksmd(tuning=tuning, cpu_limit_milli_cpu=100, pages_to_scan=1000, sleep_milliseconds=20)
    edited = start(ksmd, now, PAGE, machine.told[-1])
    looked = meter(edited, ksmd, now.at + 0.1, now.cpu)
    assert looked.budget.left < -1
    assert looked.dearest == edited.dearest == DEAREST


def test_what_somebody_else_has_ksmd_do_is_on_no_account() -> None:
    """Hours of it would have to be paid for when the policy takes ksmd's files back."""
    ksmd = Ksmd(cpu_limit_milli_cpu=200)
    told = start(ksmd, Machine(ksmd, Memory(GIB)).reading(), PAGE)
    theirs = unmetered(told, told.budget.at + 36_000, told.budget.cpu + 36_000)
    ours = meter(theirs, ksmd, theirs.budget.at + 1, theirs.budget.cpu + 0.1)
    assert ours.run
    assert ours.dearest == told.dearest


@given(st.integers(LEAST_PAGES, MOST_PAGES), st.floats(0, 1), st.floats(0.001, 0.9))
def test_a_batch_is_raised_step_by_step(pages: int, share: float, aim: float) -> None:
    """The pages that come may be dearer than those that were measured."""
    assert resize(pages, share, aim) <= max(MOST_STEP * pages, LEAST_PAGES)


def test_the_first_burst_soon_uses_its_limit() -> None:
    """New pods are to be merged now, and nothing is known yet of what a page costs."""
    machine = Machine(Ksmd(cpu_limit_milli_cpu=200), Memory(64 * GIB)).run(5)
    assert machine.share(2) > 0.8 * 0.2
