"""How long ksmd stands still for others who merge, and whom the status names."""

from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.agent.isolation import (
    CALM,
    LONGEST_HOLD,
    NAMES_SECONDS,
    SHORTEST_HOLD,
    Isolation,
    Named,
)
from ksm_operator.agent.wire import ForeignMerger

ONE = (ForeignMerger(pid=1, command="one"),)
OTHER = (ForeignMerger(pid=2, command="other"),)


def changes(sightings: list[tuple[float, bool]]) -> list[tuple[float, bool]]:
    """When isolation was broken and restored, given whether somebody was seen at each moment."""
    found, state = [], Isolation()
    for now, foreign in sightings:
        after = state.follow(now, foreign=foreign)
        if after.broken != state.broken:
            found.append((now, after.broken))
        state = after
    return found


def test_a_pause_outlasts_who_it_is_for() -> None:
    """One that is there at every other look would have ksmd run at every other one."""
    looks = [(float(now), now < 100 and now % 7 == 0) for now in range(200)]
    assert changes(looks) == [(0.0, True), (98 + SHORTEST_HOLD, False)]


def test_who_comes_again_soon_is_paused_for_longer() -> None:
    """A pod that asks and changes its mind for ever must not make `run` and Events follow it."""
    day, state, times = 86_400, Isolation(), 0
    for now in range(0, day, 5):
        # The worst that it can do: come at once whenever ksmd scans again.
        after = state.follow(now, foreign=not state.broken)
        times += after.broken and not state.broken
        state = after
    assert times == state.times
    assert times <= day / LONGEST_HOLD + 10
    assert state.hold == LONGEST_HOLD


def test_who_comes_after_a_long_time_is_new() -> None:
    """What happened in the morning is no reason for a long pause in the evening."""
    state = Isolation()
    for _ in range(4):
        state = state.follow(state.until, foreign=True)
        state = state.follow(state.until, foreign=False)
    assert state.hold == 8 * SHORTEST_HOLD
    assert state.follow(state.restored + CALM, foreign=True).hold == SHORTEST_HOLD


@given(st.lists(st.tuples(st.floats(0.01, 1000), st.booleans()), max_size=60))
def test_ksmd_never_scans_while_somebody_is_seen(steps: list[tuple[float, bool]]) -> None:
    """Whatever comes and goes, it stands still from the look that saw it for the whole hold."""
    state, now = Isolation(), 0.0
    last = float("-inf")
    for seconds, foreign in steps:
        now += seconds
        state = state.follow(now, foreign=foreign)
        last = now if foreign else last
        assert state.broken == (now < last + state.hold)
        assert not state.broken or SHORTEST_HOLD <= state.hold <= LONGEST_HOLD


def test_the_status_names_no_new_one_at_every_look() -> None:
    """Each change of it is a write to the API server, and a pod can have a new process any time."""
    named = Named().follow(0, ONE, 1, broken=True)
    assert named.mergers == ONE
    assert named.follow(1, OTHER, 5, broken=True) is named
    assert named.follow(NAMES_SECONDS, OTHER, 5, broken=True) == Named(OTHER, 5, NAMES_SECONDS)


def test_who_has_gone_stays_named_until_ksmd_scans_again() -> None:
    """The node says for whom it stands still."""
    named = Named().follow(0, ONE, 1, broken=True)
    assert named.follow(NAMES_SECONDS, (), 0, broken=True) is named
    assert named.follow(NAMES_SECONDS, (), 0, broken=False) == Named()
