"""When a release is tried again."""

import pytest

from ksm_operator.agent.releasing import (
    FAILED,
    MOMENT_PAUSE,
    PATIENCE_SECONDS,
    ROOM_PAUSE,
    Left,
    pause_before_release,
)
from ksm_operator.kernel import Process


def left(reason: str) -> Left:
    """A process that was left at 100 s."""
    return Left(Process(7, 1), "/kubepods/pod/c", 32 << 20, reason, since=100.0)


@pytest.mark.parametrize(
    ("reasons", "pause"),
    [
        (["SignalArrived"], MOMENT_PAUSE),
        (["Uninterruptible", "SignalArrived"], MOMENT_PAUSE),
        (["NoHeadroom"], ROOM_PAUSE),
        (["SignalArrived", FAILED], ROOM_PAUSE),
    ],
)
def test_a_bad_moment_passes_sooner_than_room_comes(reasons: list[str], pause: float) -> None:
    """A node is handed over without waiting for nothing, and a full one is not pestered."""
    assert pause_before_release([left(reason) for reason in reasons], 100.0) == pause


def test_what_lasts_is_no_moment() -> None:
    """A stopped process may stay so for days, and each try costs."""
    assert pause_before_release([left("Stopped")], 100.0 + PATIENCE_SECONDS) == ROOM_PAUSE


def test_who_hears_of_it() -> None:
    """Of what lacks room at once; of a bad moment when it has lasted."""
    assert left("NoHeadroom").blocks(100.0)
    assert not left("SignalArrived").blocks(100.0 + PATIENCE_SECONDS / 2)
    assert left("SignalArrived").blocks(100.0 + PATIENCE_SECONDS)
