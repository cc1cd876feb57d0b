"""When all processes are gone over."""

from ksm_operator.agent.rounds import (
    REST_SHARE,
    ROUND_LEAST_SECONDS,
    ROUND_SECONDS,
    ROUND_UNTOLD_SECONDS,
    Rounds,
)


def after_a_round(began: float, ended: float) -> Rounds:
    """The first one is over; the kernel tells."""
    rounds = Rounds()
    rounds.told = True
    assert rounds.begin(began, under_way=False)
    rounds.end(ended)
    return rounds


def test_the_first_look_is_at_once_and_at_all() -> None:
    """Who merged before the agent came is announced by nobody."""
    rounds = Rounds()
    assert rounds.begin(5.0, under_way=False)
    assert rounds.hurry
    rounds.end(6.0)
    assert rounds.done == rounds.begun == 1


def test_a_minute_where_the_kernel_tells_and_two_seconds_where_not() -> None:
    """What the kernel tells need not be looked for."""
    rounds = after_a_round(100.0, 101.0)
    assert rounds.due() == 101.0 + ROUND_SECONDS
    assert not rounds.begin(100.0 + ROUND_SECONDS, under_way=False)
    assert rounds.begin(101.0 + ROUND_SECONDS, under_way=False)
    assert not rounds.hurry
    rounds.told = False
    rounds.end(300.0)
    assert rounds.due() == 300.0 + ROUND_UNTOLD_SECONDS
    assert rounds.done == 1, "nobody waited for it"


def test_what_was_missed_is_looked_for_soon_and_not_all_the_time() -> None:
    """Lost events are no reason to wait a minute, nor to do nothing else."""
    rounds = after_a_round(100.0, 101.0)
    rounds.missed = True
    assert rounds.due() == 100.0 + ROUND_LEAST_SECONDS
    assert not rounds.begin(99.0 + ROUND_LEAST_SECONDS, under_way=False)
    assert rounds.begin(100.0 + ROUND_LEAST_SECONDS, under_way=True), "what is under way is slow"
    assert rounds.hurry
    assert not rounds.missed


def test_a_thread_that_cannot_be_found_brings_the_next_round_forward() -> None:
    """Its process may live on; where the domain's own end all the time, rounds must stay rare."""
    rounds = after_a_round(100.0, 120.0)
    rounds.unfound = True
    assert rounds.due() == 120.0 + REST_SHARE * 20.0
    assert not rounds.begin(rounds.due(), under_way=True)
    assert rounds.begin(rounds.due(), under_way=False)
    assert not rounds.hurry
    assert not rounds.unfound
    short = after_a_round(100.0, 100.1)
    short.unfound = True
    assert short.due() == 100.1 + ROUND_LEAST_SECONDS


def test_who_asks_gets_a_round_that_begins_afterwards() -> None:
    """One that is under way has passed over some already."""
    rounds = after_a_round(100.0, 101.0)
    rounds.asked = True
    assert rounds.begin(101.1, under_way=True)
    rounds.asked = True
    rounds.end(102.0)
    assert rounds.begin(102.0, under_way=False)
    assert rounds.begun == 3
