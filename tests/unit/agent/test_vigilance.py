"""When the guard looks, and what it may cost."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.agent.vigilance import Glance, Looked, Vigilance
from ksm_operator.kernel import Level

MIB = 1 << 20
WATCH = Vigilance()
MERGED = Glance(saved=900 * MIB, merged=1000 * MIB, newcomers=5, used={"/pod": 100 * MIB})
LAST = Looked(at=1000.0, cpu_seconds=1.0, before=MERGED, spare={"/pod": 50 * MIB})


def test_nothing_merged_is_nothing_to_look_at() -> None:
    """A node that merges nothing pays nothing."""
    assert not WATCH.is_due(None, 0.0, Glance())
    assert WATCH.is_due(None, 0.0, MERGED)
    assert not WATCH.is_due(replace(LAST, before=Glance()), 1e9, Glance())


@given(st.floats(0.0, 100.0), st.floats(0.0, 2.0))
def test_the_share_of_a_core_is_bounded(cost: float, factor: float) -> None:
    """A look is repeated the later the more it cost, urgent or not."""
    last = replace(LAST, cpu_seconds=cost)
    grown, joined = replace(MERGED, used={"/pod": 200 * MIB}), replace(MERGED, newcomers=6)
    shares = (WATCH.rest_share, WATCH.unknown_share, WATCH.urgent_share)
    for glance, share in zip((MERGED, joined, grown), shares, strict=True):
        later = factor * cost / share
        if WATCH.is_due(last, last.at + later, glance):
            assert cost <= share * later * 1.001


def test_what_makes_a_look_urgent() -> None:
    """Where somebody may lack room that was there, it is not waited for a minute."""
    assert not WATCH.is_urgent(LAST, MERGED)
    assert not WATCH.is_urgent(LAST, replace(MERGED, used={"/pod": 149 * MIB}))
    assert WATCH.is_urgent(LAST, replace(MERGED, used={"/pod": 151 * MIB}))
    assert not WATCH.is_urgent(LAST, replace(MERGED, merged=1024 * MIB))
    assert WATCH.is_urgent(LAST, replace(MERGED, merged=1026 * MIB))
    both = replace(MERGED, merged=1020 * MIB, used={"/pod": 111 * MIB})
    assert WATCH.is_urgent(LAST, both)


def test_a_container_that_was_never_looked_at() -> None:
    """Nothing is known of its room, so what is merged after it came may be too much for it."""
    later = replace(MERGED, merged=1003 * MIB, newcomers=6)
    assert WATCH.is_urgent(LAST, later)
    assert not WATCH.is_urgent(LAST, replace(later, newcomers=5))
    assert not WATCH.is_urgent(LAST, replace(later, merged=1001 * MIB))


def test_pods_that_take_the_place_of_others() -> None:
    """In a rolling update as much is merged as ends, and a new payer may refill at any moment."""
    rolled = replace(MERGED, merged=5096 * MIB, newcomers=6)
    assert rolled.saved == LAST.before.saved
    assert WATCH.is_due(LAST, LAST.at + 1.0 / WATCH.urgent_share, rolled)
    assert not WATCH.is_due(LAST, LAST.at + 0.9 / WATCH.urgent_share, rolled)


def test_what_is_merged_while_nobody_governs_ksmd() -> None:
    """Somebody else may have it scan; what was merged is counted by who governs it."""
    assert WATCH.is_urgent(LAST, replace(MERGED, saved=1996 * MIB))


def test_what_newcomers_merge_may_be_hidden() -> None:
    """Within one reading of the counters it makes up for what has ended: they are looked at."""
    hidden = replace(MERGED, newcomers=6)
    assert WATCH.is_due(LAST, LAST.at + 1.0 / WATCH.unknown_share, hidden)
    assert not WATCH.is_due(LAST, LAST.at + 0.9 / WATCH.unknown_share, hidden)
    assert not WATCH.is_due(LAST, LAST.at + 1.0 / WATCH.unknown_share, MERGED)


def test_what_cannot_be_helped_is_not_looked_at_for_ever() -> None:
    """A cgroup that lacks room by itself goes on lacking it: only what changes counts."""
    exposed = replace(LAST, spare={"/pod": -30 * MIB})
    assert not WATCH.is_urgent(exposed, MERGED)
    assert WATCH.is_urgent(exposed, replace(MERGED, used={"/pod": 103 * MIB}))


def test_a_cgroup_that_is_gone() -> None:
    """Its usage is not there any more, and nobody in it can be killed."""
    assert not WATCH.is_urgent(LAST, replace(MERGED, used={}))


def test_what_grows_while_a_look_goes_on() -> None:
    """A look may take half a minute, and the room that it found was read somewhere in between."""
    levels = {
        "/pod": Level("/pod", 60 * MIB, 100 * MIB, (160 * MIB, None)),
        "/": Level("/", None, None, (None, None)),
        "node": Level("node", 1000 * MIB),
    }
    before = replace(MERGED, used={"/pod": 1 * MIB}).beside(levels)
    limits = {"/pod": (160 * MIB, None), "/": (None, None)}
    assert before == replace(MERGED, limits=limits)


def test_a_limit_that_is_lowered() -> None:
    """A pod that is resized in place loses room without growing; a limit may also be new."""
    limits: dict[str, tuple[int | None, ...]] = {"/pod": (200 * MIB, None), "/": (None, None)}
    last = replace(LAST, before=replace(MERGED, limits=limits))

    def is_urgent(name: str, *now: int | None, used: int = 100 * MIB) -> bool:
        glance = replace(MERGED, used={"/pod": used}, limits=limits | {name: now})
        return WATCH.is_urgent(last, glance)

    assert not is_urgent("/pod", 200 * MIB, None)
    assert not is_urgent("/pod", 151 * MIB, None)
    assert is_urgent("/pod", 149 * MIB, None)
    assert is_urgent("/pod", 179 * MIB, None, used=130 * MIB)
    assert is_urgent("/pod", 200 * MIB, 190 * MIB), "memory.high is set"
    assert is_urgent("/", 1000 * MIB, None)
    assert not is_urgent("/pod", 300 * MIB, None)
    assert not is_urgent("/pod", None, None), "it has gone"
