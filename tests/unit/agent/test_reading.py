"""What the governor measures."""

from dataclasses import replace

from ksm_operator.agent.reading import Reading, merged

PAGE = 4096
BEFORE = Reading(
    at=0.0,
    cpu=0.0,
    full_scans=0,
    breaks=100,
    news=0,
    saved=50 * PAGE,
    known=0,
    anonymous=0,
    charged=0,
    available_percent=50.0,
    merged=1000,
)


def test_what_was_written_to_meanwhile_was_merged_too() -> None:
    """The kernel counts only what is merged now."""
    assert merged(BEFORE, 60 * PAGE, 103, PAGE) == 1000 + 13 * PAGE


def test_what_ended_is_no_merging_undone() -> None:
    """Newcomers would hide behind those who take their merged pages along."""
    assert merged(BEFORE, 0, 100, PAGE) == 1000


def test_nothing_was_merged_before_the_first_reading() -> None:
    """An agent that starts finds pages that another had merged."""
    assert merged(None, 50 * PAGE, 7, PAGE) == 0
    assert merged(replace(BEFORE, merged=0), 50 * PAGE, 100, PAGE) == 0
