"""Whether a handler is about to run."""

import os

import pytest

from ksm_operator.kernel.signals import handles, runs_handler

USR1, CHLD = 10, 17


def bits(*signals: int) -> str:
    """A set of signals as /proc/PID/status has it."""
    return f"{sum(1 << (signal - 1) for signal in signals):016x}"


@pytest.mark.parametrize(
    ("caught", "blocked", "own", "shared", "signal", "expected"),
    [
        ((USR1,), (), (), (), USR1, True),
        ((USR1,), (), (), (), CHLD, False),
        ((USR1,), (), (), (), 0, False),
        ((USR1,), (), (), (USR1,), CHLD, True),
        ((USR1,), (), (USR1,), (), 0, True),
        ((USR1,), (USR1,), (USR1,), (), 0, False),
        # It is on its way already: what blocks it now came too late.
        ((USR1,), (USR1,), (), (), USR1, True),
        ((), (), (USR1,), (CHLD,), CHLD, False),
    ],
)
def test_only_a_handler_counts(  # noqa: PLR0913 - the columns of the table
    caught: tuple[int, ...],
    blocked: tuple[int, ...],
    own: tuple[int, ...],
    shared: tuple[int, ...],
    signal: int,
    expected: bool,  # noqa: FBT001 - one of them
) -> None:
    """A program hears of nothing else, so nothing else may end its call."""
    status = {
        "SigPnd": bits(*own),
        "ShdPnd": bits(*shared),
        "SigBlk": bits(*blocked),
        "SigCgt": bits(*caught),
    }
    assert handles(status, signal) is expected


def test_a_process_that_is_gone_handles_nothing() -> None:
    """The question is asked of targets that may be killed at any moment."""
    assert not runs_handler(os.getpid(), 2**22 + 1, USR1)
