"""How long newcomers stay."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.agent.lives import YOUNG_SECONDS, Lives


def _gone(_name: str) -> bool:
    return False


def test_nobody_who_ended_means_for_ever() -> None:
    """A node that was just taken shall not be taken for a restless one."""
    lives = Lives()
    for second in range(100):
        lives.follow(float(second), ["a", "b"], _gone)
        assert lives.expected() == math.inf


def test_those_who_come_and_go_tell_their_life() -> None:
    """Jobs of twenty seconds, one after the other."""
    lives = Lives()
    for second in range(601):
        lives.follow(float(second), [f"job-{second // 20}"], _gone)
    assert lives.expected() == pytest.approx(20, rel=0.05)


def test_those_who_stay_for_long_say_nothing_of_those_who_come() -> None:
    """Ninety old containers beside one that crashes again and again."""
    lives, old = Lives(), [f"old-{number}" for number in range(90)]
    for second in range(0, int(YOUNG_SECONDS) + 5000, 5):
        job = f"job-{second // 20}" if second > YOUNG_SECONDS else "none"
        lives.follow(float(second), [*old, job], _gone)
    assert lives.expected() < 60


def test_what_starts_with_a_node_says_little_of_what_comes_later() -> None:
    """Services that stay start together; beside them six jobs run, of twenty seconds each."""
    lives, services = Lives(), [f"service-{number}" for number in range(13)]
    for second in range(121):
        jobs = [f"job-{number}-{(second + 10 * number) // 20}" for number in range(6)]
        lives.follow(float(second), [*services, *jobs], _gone)
        if second == YOUNG_SECONDS:
            early = lives.expected()
    assert lives.expected() < 35 < early


@pytest.mark.parametrize("many", [20, 100])
def test_jobs_that_come_many_at_once_tell_their_life_too(many: int) -> None:
    """A parallel Job, or a pipeline: forty containers that end together, and the next forty."""
    lives = Lives()
    for second in range(601):
        lives.follow(
            float(second), [f"job-{number}-{second // 20}" for number in range(many)], _gone
        )
        assert second < 20 or lives.expected() <= 60
    assert lives.expected() == pytest.approx(20, rel=0.05)


def test_those_who_came_and_stayed_count() -> None:
    """A roll-out has every container replaced, and then the node is at peace again."""
    lives = Lives()
    lives.follow(0.0, [f"before-{number}" for number in range(10)], _gone)
    lives.follow(20.0, [f"after-{number}" for number in range(10)], _gone)
    restless = lives.expected()
    for second in range(30, 500, 10):
        lives.follow(float(second), [f"after-{number}" for number in range(10)], _gone)
    assert lives.expected() > 4 * restless


def test_who_is_let_go_has_not_ended() -> None:
    """Each pod begins with a container that merges until it is known for what it is."""
    lives = Lives()
    for second in range(300):
        pods = [f"pod-{number}" for number in range(1 + second // 10)]
        holders = [f"holder-{number}" for number in range(1 + second // 10)]
        lives.follow(float(second), [*pods, holders[-1]], set(holders).__contains__)
    assert lives.expected() == math.inf


@given(st.lists(st.tuples(st.floats(0, 5000), st.sets(st.sampled_from("abcdef")))))
def test_it_is_never_less_than_nothing(steps: list[tuple[float, set[str]]]) -> None:
    """Whoever comes and goes, and however long nobody looks."""
    lives, at = Lives(), 0.0
    for passed, there in steps:
        at += passed
        lives.follow(at, there, _gone)
        assert lives.expected() >= 0
