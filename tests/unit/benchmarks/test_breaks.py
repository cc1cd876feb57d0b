import pytest

from benchmarks.governor.breaks import cost_of_break


def test_the_cost_of_a_break_is_what_it_takes_beyond_the_write() -> None:
    """And never less than nothing, on a machine that was busy meanwhile."""
    assert cost_of_break(3_000_000, 1_000_000, 1000) == pytest.approx(2e-6)
    assert cost_of_break(1, 2, 1000) == 0
    assert cost_of_break(5, 2, 0) == pytest.approx(3e-9)
