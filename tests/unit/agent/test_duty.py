"""How a thread that reads much memory is kept below its share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.agent.duty import Abandoned, Duty, rest


@given(used=st.floats(0.001, 1e3), share=st.floats(0.01, 1))
def test_work_and_rest_make_the_share(used: float, share: float) -> None:
    """The node's pods are to have the rest of the core, whatever a piece of work took."""
    assert used / (used + rest(used, share)) == pytest.approx(share)


def test_what_nobody_wants_ends() -> None:
    """A policy that was edited need not wait for minutes until an old look is over."""
    wanted = [True, True, False]
    pause = Duty(lambda: 1.0, lambda: wanted.pop(0))
    pause()
    pause()
    with pytest.raises(Abandoned):
        pause()
