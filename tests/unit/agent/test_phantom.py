"""How often the phantom charge is measured."""

from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.agent.phantom import LEAST_SECONDS, MOST_CPU_SHARE, Look, is_due
from ksm_operator.kernel import Estimate

SECONDS = st.floats(0, 1e5)


def test_the_first_look_is_due_at_once() -> None:
    """A node that has just begun to merge shows a figure soon."""
    assert is_due(None, 0.0)


@given(at=SECONDS, later=SECONDS, cpu=SECONDS)
def test_looks_are_rare_and_cheap(at: float, later: float, cpu: float) -> None:
    """At most once a minute, and a small share of a core however long one takes."""
    if is_due(Look(Estimate(1), at, cpu), at + later):
        assert later >= LEAST_SECONDS * 0.999
        assert cpu <= later * MOST_CPU_SHARE * 1.001
    elif later > LEAST_SECONDS * 1.001:
        assert cpu > later * MOST_CPU_SHARE * 0.999
