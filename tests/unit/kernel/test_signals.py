"""Whether a handler is about to run."""

import os

import pytest

from ksm_operator.kernel.signals import handles, runs_handler

USR1, CHLD = 10, 17


def bits(*signals: int) -> str:
    """A set of signals as /proc/PID/status has it."""
    return f"{sum(1 << (signal - 1) for signal in signals):016x}"


@pytest.mark.parametrize(
    ("caught", "blocked", "pending", "signal", "expected"),
    [
        ([USR1], [], {}, USR1, True),
        ([USR1], [], {}, CHLD, False),
        ([USR1], [], {}, 0, False),
        ([USR1], [], {"ShdPnd": USR1}, CHLD, True),
        ([USR1], [], {"SigPnd": USR1}, 0, True),
        ([USR1], [USR1], {"SigPnd": USR1}, 0, False),
        # It is on its way already: what blocks it now came too late.
        ([USR1], [USR1], {}, USR1, True),
        ([], [], {"SigPnd": USR1, "ShdPnd": CHLD}, CHLD, False),
    ],
)
def test_only_a_handler_counts(
    caught: list[int],
    blocked: list[int],
    pending: dict[str, int],
    signal: int,
    expected: bool,  # noqa: FBT001 - a column of the table
) -> None:
    """A program hears of nothing else, so nothing else may end its call."""
    status = {name: bits(number) for name, number in pending.items()}
    status |= {"SigCgt": bits(*caught), "SigBlk": bits(*blocked)}
    assert handles(status, signal) is expected


def test_a_process_that_is_gone_handles_nothing() -> None:
    """The question is asked of targets that may be killed at any moment."""
    assert not runs_handler(os.getpid(), 2**22 + 1, USR1)
