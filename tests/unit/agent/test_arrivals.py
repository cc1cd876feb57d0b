"""Who is new on the node."""

from ksm_operator.agent.arrivals import MOST_WAITING, Arrivals


def test_who_is_new_is_looked_at_once() -> None:
    """Nothing else leads to a child whose parent has ended, and looks at all are dear."""
    arrivals = Arrivals()
    assert arrivals.compare({1, 2}) == {1, 2}
    assert arrivals.compare({2, 3}) == {3}
    assert arrivals.compare({2, 3}) == set()
    assert arrivals.compare({1, 2, 3}) == {1}, "its pid was given out again"


def test_some_at_a_time_in_the_order_of_their_coming() -> None:
    """A storm of processes costs no more than a tick allows, and none of them waits for ever."""
    arrivals = Arrivals()
    assert not arrivals
    assert arrivals.wait([3, 1, 2], closely=False) == []
    assert list(arrivals.take(2)) == [3, 1]
    assert arrivals
    assert arrivals.take(2) == {2: False}
    assert not arrivals


def test_who_waits_already_is_looked_at_as_closely_as_anybody_wants() -> None:
    """A round that comes by does not make a child of one who asked any less suspect."""
    arrivals = Arrivals()
    arrivals.wait([1], closely=True)
    arrivals.wait([1, 2], closely=False)
    assert arrivals.take(9) == {1: True, 2: False}


def test_who_finds_no_room_is_told() -> None:
    """Whoever is not remembered has to be found otherwise."""
    arrivals = Arrivals()
    assert arrivals.wait(range(MOST_WAITING), closely=True) == []
    assert arrivals.wait([0, 1 << 22], closely=True) == [1 << 22]
    assert len(arrivals.take(2 * MOST_WAITING)) == MOST_WAITING
