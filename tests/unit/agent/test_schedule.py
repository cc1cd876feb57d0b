"""When the main loop does what."""

import pytest

from ksm_operator.agent.schedule import (
    NEVER,
    NEWS_REPORT_SECONDS,
    REPORT_SECONDS,
    START_SECONDS,
    Schedule,
    is_too_early,
)

START = 1000.0


def at_rest() -> Schedule:
    """A schedule of a loop that has looked at its status once, and of which nothing else is due."""
    schedule = Schedule(NEVER, NEVER, NEVER, NEVER)
    assert schedule.report_is_due(START)
    return schedule


def test_without_news_the_status_is_looked_at_rarely() -> None:
    """Each look reads files of every container; a node at rest shall cost nothing."""
    schedule = at_rest()
    assert schedule.soonest() == START + REPORT_SECONDS
    assert not schedule.report_is_due(START + REPORT_SECONDS - 0.01)
    assert schedule.report_is_due(START + REPORT_SECONDS)


def test_news_is_told_soon_and_not_at_every_piece() -> None:
    """A hundred containers that start at once are a few looks, and the first is not put off."""
    schedule = at_rest()
    looks = 0
    for step in range(100):
        schedule.happened = True
        looks += schedule.report_is_due(START + step * 0.01)
    assert looks == round(1.0 / NEWS_REPORT_SECONDS) - 1
    assert schedule.report_is_due(START + 1.0)


def test_the_soonest_thing_wakes_the_loop() -> None:
    """Whatever is forgotten here is done seconds late."""
    for name in ("resync", "reconcile", "govern", "guard"):
        schedule = at_rest()
        setattr(schedule, name, START + 1.0)
        assert schedule.soonest() == START + 1.0


@pytest.mark.parametrize(
    ("listed", "looked", "waits"),
    [(True, True, False), (False, True, True), (True, False, True), (False, False, True)],
)
def test_a_new_agent_does_not_speak_before_it_knows(
    *, listed: bool, looked: bool, waits: bool
) -> None:
    """It would reset the times of all conditions, and call a node alone that is not."""
    assert is_too_early(0.1, listed=listed, looked=looked) is waits
    assert not is_too_early(START_SECONDS, listed=listed, looked=looked), "nor is silent for ever"
