"""Where ksmd may run."""

from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.agent.affinity import choose

CPUS = st.frozensets(st.integers(0, 7))


@given(CPUS, CPUS)
def test_ksmd_stays_within_what_it_had_and_what_is_shared(
    before: frozenset[int], shared: frozenset[int]
) -> None:
    """Never on a CPU that somebody has for himself, nor on one that an administrator took away."""
    chosen = choose(before, shared)
    assert chosen <= before
    assert chosen <= shared or not before & shared
    assert chosen or not before
