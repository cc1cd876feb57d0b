from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.controller import quiet
from unit.controller.examples import condition


def status(saved: int = 1 << 30, ready: int = 3, truth: str = "True") -> dict[str, Any]:
    """A policy's status."""
    return {
        "observedGeneration": 1,
        "nodes": {"matched": 4, "ready": ready},
        "memory": {"savedBytes": saved},
        "conditions": [condition("Ready", truth, "Reason", 1, f"{ready} nodes")],
    }


def test_the_same_is_never_written() -> None:
    """A write that changes nothing still wakes everybody who watches."""
    assert quiet.wait(status(), status(), 1) is None


def test_a_transition_is_written_at_once() -> None:
    """Programs wait for it."""
    assert quiet.wait(status(), status(truth="False"), 500) == 0
    assert quiet.wait({}, status(), 500) == 0


def test_counts_are_written_soon_and_figures_later() -> None:
    """People follow a rollout by its counts; figures move for ever."""
    assert quiet.wait(status(), status(ready=4), 1) == quiet.COUNT_SECONDS
    assert quiet.wait(status(), status(saved=(1 << 30) + 1), 1) == quiet.FIGURE_SECONDS


def test_a_saving_that_takes_off_is_shown_soon() -> None:
    """Right after a policy was applied people look every second."""
    assert quiet.wait(status(saved=0), status(), 1) == quiet.COUNT_SECONDS


@given(st.integers(1, 5000))
def test_all_policies_together_stay_quiet(policies: int) -> None:
    """However many there are, the API server gets a bounded number of writes for what moves."""
    counts = quiet.wait(status(), status(ready=4), policies)
    figures = quiet.wait(status(), status(saved=(1 << 30) + 1), policies)
    assert counts is not None
    assert figures is not None
    assert policies / counts <= quiet.COUNTS_PER_SECOND
    assert policies / figures <= quiet.FIGURES_PER_SECOND
