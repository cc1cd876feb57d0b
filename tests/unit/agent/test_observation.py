"""How often memory is read to estimate what merging would give back."""

from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.agent.observation import (
    CHANGED_SHARE,
    LEAST_SECONDS,
    UNCHANGED_SECONDS,
    UNCHANGED_SHARE,
    Observed,
    is_due,
)
from ksm_operator.kernel import Estimate

SECONDS = st.floats(0, 1e5)


def look(cpu: float = 1.0, about: str = "these") -> Observed:
    """One that ended at 0."""
    return Observed(Estimate(1), 2, 3, about, 0.0, cpu)


def test_the_first_look_is_due_at_once() -> None:
    """A person who has just applied a policy waits for the figure."""
    assert is_due(None, "these", 0.0)


@given(later=SECONDS, cpu=SECONDS)
def test_looks_cost_little_on_average(later: float, cpu: float) -> None:
    """However much memory there is, and however often pods come and go."""
    if is_due(look(cpu), "those", later):
        assert later >= LEAST_SECONDS
        assert cpu <= later * CHANGED_SHARE * 1.001
    if is_due(look(cpu), "these", later):
        assert later >= UNCHANGED_SECONDS
        assert cpu <= later * UNCHANGED_SHARE * 1.001


def test_what_has_changed_is_looked_at_sooner() -> None:
    """Half of a Deployment had started at the first look."""
    assert is_due(look(), "those", 60.0)
    assert not is_due(look(), "these", 60.0)
    assert is_due(look(), "these", 700.0)
