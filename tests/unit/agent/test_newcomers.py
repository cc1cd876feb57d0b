"""Who waits for ksmd, and how long such containers stay."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.agent.newcomers import WATCHED_SECONDS, Newcomers
from ksm_operator.agent.pace import begin
from unit.agent.readings import START, at_rest, later

OLD = [f"old-{number}" for number in range(90)]


def _gone(_name: str) -> bool:
    return False


def serve(newcomers: Newcomers) -> None:
    """Begin a burst."""
    resting, reading = at_rest()
    newcomers.keep_up(resting, begin(reading))


def seen(newcomers: Newcomers) -> tuple[set[str], set[str]]:
    """Who waits, and who was served."""
    return set(newcomers.waiting), set(newcomers.served)


def test_those_who_came_wait_until_a_burst_is_for_them() -> None:
    """A burst is judged by them, and the next one by those who came since it began."""
    newcomers = Newcomers()
    newcomers.follow(0.0, ["a", "b"], _gone)
    assert seen(newcomers) == ({"a", "b"}, set())
    pace = begin(START)
    newcomers.keep_up(None, pace)
    newcomers.follow(1.0, ["a", "b", "c"], _gone)
    newcomers.keep_up(pace, pace)
    assert seen(newcomers) == ({"c"}, {"a", "b"})
    serve(newcomers)
    newcomers.follow(2.0, ["b", "c", "d"], _gone)
    assert seen(newcomers) == ({"d"}, {"c"})


def test_a_burst_that_is_drawn_out_is_for_those_who_came_before_its_last_scan() -> None:
    """Who came amid that scan was not looked at in it, perhaps, and needs two looks."""
    newcomers, pace = Newcomers(), begin(START)
    newcomers.keep_up(None, pace)
    newcomers.follow(1.0, ["a"], _gone)
    newcomers.follow(2.0, ["a", "b"], _gone)
    scanning = replace(pace, scan=later(START, 1.5))
    newcomers.keep_up(scanning, replace(scanning, news=scanning.news + 1))
    assert seen(newcomers) == ({"b"}, {"a"})


def test_a_burst_that_begins_anew_is_for_all_who_came() -> None:
    """Memory was plenty for hours."""
    newcomers, pace = Newcomers(), begin(START)
    newcomers.follow(0.0, ["a"], _gone)
    newcomers.keep_up(None, pace)
    newcomers.follow(9000.0, ["a", "b"], _gone)
    newcomers.keep_up(pace, begin(later(START, 9000.0, news=1)))
    assert seen(newcomers) == (set(), {"a", "b"})


def test_nobody_who_ended_means_for_ever() -> None:
    """A node that was just taken shall not be taken for a restless one."""
    newcomers = Newcomers()
    for second in range(100):
        newcomers.follow(float(second), OLD, _gone)
        if second % 10 == 0:
            serve(newcomers)
        assert newcomers.stay() == math.inf


@pytest.mark.parametrize("many", [1, 20])
@pytest.mark.parametrize("period", [10, 30, 200])
def test_those_who_come_and_go_tell_their_life(many: int, period: int) -> None:
    """Jobs of twenty seconds, one after the other or a pipeline's, beside services that stay."""
    newcomers = Newcomers()
    for second in range(1201):
        jobs = [f"job-{number}-{second // 20}" for number in range(many)]
        newcomers.follow(float(second), [*OLD, *jobs], _gone)
        if second % period == 0:
            serve(newcomers)
    assert newcomers.stay() == pytest.approx(20, rel=0.25)


def test_those_who_were_served_long_ago_say_nothing_of_those_who_wait() -> None:
    """What starts with a node stays, and no burst was worth it since."""
    newcomers = Newcomers()
    newcomers.follow(0.0, OLD, _gone)
    serve(newcomers)
    watched, late = int(WATCHED_SECONDS), 1000
    for second in range(1, watched + 1):
        newcomers.follow(float(second), OLD, _gone)
    for second in range(late, late + 201):
        newcomers.follow(float(second), [*OLD, f"job-{second // 20}"], _gone)
    assert newcomers.stay() == pytest.approx((watched * len(OLD) + 200) / 10)


def test_those_who_came_and_stayed_count() -> None:
    """A roll-out has every container replaced, and then the node is at peace again."""
    newcomers = Newcomers()
    newcomers.follow(0.0, OLD, _gone)
    newcomers.follow(20.0, [f"after-{number}" for number in range(90)], _gone)
    restless = newcomers.stay()
    serve(newcomers)
    for second in range(30, 80, 10):
        newcomers.follow(float(second), [f"after-{number}" for number in range(90)], _gone)
    assert newcomers.stay() > 4 * restless


def test_who_is_let_go_has_not_ended() -> None:
    """Each pod begins with a container that merges until it is known for what it is."""
    newcomers = Newcomers()
    for second in range(300):
        pods = [f"pod-{number}" for number in range(1 + second // 10)]
        holders = [f"holder-{number}" for number in range(1 + second // 10)]
        newcomers.follow(float(second), [*pods, holders[-1]], set(holders).__contains__)
    assert newcomers.stay() == math.inf


@given(
    st.lists(
        st.tuples(
            st.floats(0, 5000),
            st.sets(st.sampled_from("abcdef")),
            st.sampled_from(["nothing", "a burst", "drawn out"]),
        )
    )
)
def test_it_never_loses_count(steps: list[tuple[float, set[str], str]]) -> None:
    """Whoever comes and goes, however long nobody looks, and whatever is done for them."""
    newcomers, pace, at = Newcomers(), begin(START), 0.0
    for passed, there, deed in steps:
        at += passed
        newcomers.follow(at, there, _gone)
        if deed == "a burst":
            serve(newcomers)
        if deed == "drawn out":
            newcomers.keep_up(pace, replace(pace, news=pace.news + 1))
        assert newcomers.stay() >= 0
        assert not newcomers.waiting & newcomers.served
        assert newcomers.waiting | newcomers.served <= there
