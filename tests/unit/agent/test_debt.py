"""When a node has merged more than it could take if it came apart."""

from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.agent.debt import FLOOR_SHARE, Debt, reckon

GIB = 1 << 30
BYTES = st.integers(0, 1 << 42)


@given(BYTES, BYTES, BYTES, BYTES)
def test_merging_by_itself_never_stops_merging(
    merged: int, more: int, room: int, total: int
) -> None:
    """What it saves is available afterwards: only who grows into that makes a debt too large."""
    before = reckon(None, merged, merged + room, total)
    after = reckon(before, merged + more, merged + room + more, total)
    assert not before.is_held
    assert not after.is_held


@given(BYTES, BYTES, BYTES)
def test_what_comes_apart_at_once_fits_while_merging_goes_on(
    merged: int, room: int, total: int
) -> None:
    """But for as little of the node as moves by itself, whatever anybody has asked for."""
    debt = reckon(None, merged, room, total)
    assert debt.is_held or debt.size <= max(room, total // 50)


def test_a_node_that_is_full_begins() -> None:
    """There merging is needed most; nothing of it is owed yet."""
    total = 100 * GIB
    floor = int(FLOOR_SHARE * total)
    assert not reckon(None, 0, -GIB, total).is_held
    assert not reckon(None, floor, floor // 2, total).is_held
    assert reckon(None, floor + 1, floor // 2, total).is_held


def test_half_a_node_is_never_owed_unless_it_is_there() -> None:
    """A cautious `releaseReservePercent` of 50 once made that the debt which was let pass."""
    assert reckon(None, 50 * GIB, 40 * GIB, 100 * GIB).is_held
    assert not reckon(None, 40 * GIB, 50 * GIB, 100 * GIB).is_held


def test_it_does_not_flap() -> None:
    """What is available moves by some percent all the time."""
    held = reckon(None, 101, 100, 0)
    assert held.is_held
    assert reckon(held, 101, 105, 0).is_held
    assert not reckon(held, 101, 113, 0).is_held
    assert not reckon(reckon(held, 101, 113, 0), 101, 105, 0).is_held


def test_it_says_what_it_is_about() -> None:
    """Short enough for a condition, and silent while all is well."""
    assert not reckon(None, 1, 2, 0).message()
    message = Debt(7 * GIB + 1, 6 * GIB, True).message()
    assert "7.1 GiB" in message
    assert "6.0 GiB" in message
    assert "ksmd is stopped" in message
    assert len(message) <= 200
    message = Debt(7 * GIB + 1, 6 * GIB, True).message(others_scan=True)
    assert "somebody else has ksmd scan" in message, "a standstill that is none must not be claimed"
    assert len(message) <= 200
