"""What the governor measures."""

from ksm_operator.agent.reading import broken, merged
from unit.agent.readings import PAGE, START, later

BEFORE = later(START, saved=50 * PAGE, breaks=100)


def test_what_was_written_to_meanwhile_was_merged_too() -> None:
    """The kernel counts only what is merged now."""
    assert merged(BEFORE, 60 * PAGE, 103, PAGE) == BEFORE.merged + 13 * PAGE


def test_what_ended_is_no_merging_undone() -> None:
    """Newcomers would hide behind those who take their merged pages along."""
    assert merged(BEFORE, 0, 100, PAGE) == BEFORE.merged


def test_nothing_was_merged_before_the_first_reading() -> None:
    """An agent that starts finds pages that another had merged."""
    assert merged(None, 50 * PAGE, 7, PAGE) == 0


def test_what_we_give_back_was_not_written_to() -> None:
    """The kernel counts both alike, and a large release would pass for a garbage collection."""
    assert broken(100, 5100, 5000) == 100
    assert broken(100, 5107, 5000) == 107


def test_writes_are_never_taken_back() -> None:
    """What a release gave back is known at its end only; a count that falls looks like growth."""
    during = broken(100, 3100, 0)
    assert during == 3100
    assert broken(during, 5107, 5000) == during
    assert broken(during, 8200, 5000) == 3200
