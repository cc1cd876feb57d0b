"""What stands out from the writing that there usually is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.agent.writing import CALM, LATELY_SECONDS, USUAL_SECONDS, Writing

MIB = 1 << 20


def steady(rate: float, seconds: int = 20 * int(USUAL_SECONDS)) -> Writing:
    """What is known after so many bytes a second for some minutes."""
    writing = Writing()
    for _ in range(seconds):
        writing = writing.after(rate, 1.0)
    return writing


@pytest.mark.parametrize("rate", [0, CALM, 100 * MIB])
def test_nothing_stands_out_of_steady_writing(rate: int) -> None:
    """However much it is, and also right after a burst has seen to it."""
    writing = steady(rate)
    assert writing.stood_out() == pytest.approx(0, abs=1000)
    assert writing.is_calm(rate)
    later = writing.seen_to().after(rate, 1.0)
    assert later.stood_out() == pytest.approx(0, abs=1000)


@pytest.mark.parametrize("usual", [0, 4 * MIB])
def test_a_collection_stands_out_by_most_of_its_size(usual: int) -> None:
    """It must neither hide itself nor wait for the caches beside it."""
    size = 200 * MIB
    writing = steady(usual)
    assert not writing.is_calm(usual + size)
    writing = writing.after(usual + size, 1.0)
    assert 0.8 * size < writing.stood_out() <= size
    assert writing.is_calm(usual)


def test_it_makes_no_difference_how_often_somebody_looks() -> None:
    """While memory is plenty nobody looks for hours; so far as no collection comes meanwhile."""
    once, often = Writing().after(MIB, 3600.0), steady(MIB, 3600)
    assert once.lately == pytest.approx(often.lately)
    assert once.usual == pytest.approx(often.usual)
    assert once.stood_out() == pytest.approx(often.stood_out(), abs=1)


@given(st.lists(st.tuples(st.floats(0, 2**40), st.floats(0.001, 1e5))))
def test_no_more_stands_out_than_was_written(steps: list[tuple[float, float]]) -> None:
    """Whatever comes in whatever time."""
    writing, size = Writing(), 0.0
    for rate, seconds in steps:
        writing, size = writing.after(rate, seconds), size + rate * seconds
    assert writing.stood_out() <= size * (1 + 1e-9)
    assert writing.stood_out() >= -LATELY_SECONDS * writing.usual
