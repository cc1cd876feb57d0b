"""What the governor measures."""

from ksm_operator.agent.reading import merged
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
