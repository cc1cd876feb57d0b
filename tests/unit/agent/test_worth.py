"""What scanning is worth."""

from dataclasses import replace

import pytest

from ksm_operator.agent.worth import LONGEST_LIFE, PRICE, haste, value
from unit.agent.readings import GIB, PAGE, START, scanned


def test_what_lives_for_seconds_is_worth_little() -> None:
    """Merged and written to at once: nothing was saved, and each break costs a copy."""
    kept = value(START, scanned(START, saved=GIB // 4), PAGE)
    lost = value(START, scanned(START, saved=0, breaks=GIB // 4 // PAGE), PAGE)
    assert kept > 20
    assert lost < 1e-3


def test_memory_is_worth_more_when_it_is_scarce() -> None:
    """The last gigabyte of a node is the dearest."""
    found = scanned(START, saved=GIB // 100)
    scarce = replace(found, available_percent=5.0)
    assert value(START, scarce, PAGE) == pytest.approx(5 * value(START, found, PAGE))


def test_haste_is_worth_what_is_merged_sooner() -> None:
    """As long as it would have waited, but no longer than those stay whose memory it is."""
    now = START
    assert haste(PRICE, 1.0, 1.0, now) == pytest.approx(1)
    assert haste(PRICE // 10, 100.0, 5.0, now) == pytest.approx(2)
    assert haste(PRICE // 10, 100.0, 5.0, replace(now, stay=25.0)) == pytest.approx(0.5)
    assert haste(-PRICE, 100.0, 1.0, now) < 0
    assert haste(PRICE, LONGEST_LIFE, 0.0, now) > 1000, "of scans that cost nothing yet"
