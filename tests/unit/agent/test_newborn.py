"""How often a container that came just now is glanced at."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.agent.newborn import EACH, GROWN_UP, SHORTEST, Newborn


def glances(newborn: Newborn, until: float) -> list[float]:
    """The moments of all glances, looking whenever one is due."""
    moments = []
    while (now := newborn.next_due()) <= until:
        if newborn.due(now):
            moments.append(now)
    return moments


def test_glances_are_dense_at_first_and_end() -> None:
    """A program begins after milliseconds or seconds, and an old container costs nothing."""
    newborn = Newborn()
    newborn.add("a", 0.0)

    moments = glances(newborn, 3600.0)

    assert moments[0] == 0.0
    assert max(late - early for early, late in pairwise(moments)) <= GROWN_UP / 20 + 1e-9
    assert sum(moment < 0.06 for moment in moments) >= 20
    assert len(moments) < 200
    assert newborn.next_due() == float("inf")


@given(count=st.integers(1, 300))
def test_many_at_once_share_the_cpu(count: int) -> None:
    """A full node that starts anew must not spend its CPU on glances."""
    newborn = Newborn()
    for number in range(count):
        newborn.add(str(number), 0.0)
    newborn.due(0.0)
    assert newborn.next_due() == max(SHORTEST, EACH * count)


def test_a_forgotten_one_is_not_glanced_at() -> None:
    """Its cgroup is gone."""
    newborn = Newborn()
    newborn.add("a", 0.0)
    newborn.drop("a")
    assert not newborn.due(1.0)
    newborn.drop("a")
