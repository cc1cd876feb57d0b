from benchmarks.governor.seen import pressed
from unit.benchmarks.nodes import GIB, node


def test_a_pressed_node_has_less_than_a_fifth_left() -> None:
    """It is what the peers that wait for pressure need to begin."""
    seen = pressed(node())
    assert seen.available < seen.total / 5
    assert seen.free < seen.total / 5


def test_one_that_is_short_of_memory_stays_as_it_is() -> None:
    """The real thing needs no help."""
    assert pressed(node(available=GIB, free=GIB)) == node(available=GIB, free=GIB)
