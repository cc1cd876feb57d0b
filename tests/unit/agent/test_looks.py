"""When a process is worth another look at its ranges."""

import pytest

from ksm_operator.agent.looks import (
    LONGEST_SECONDS,
    TELLING_AGES,
    Look,
    anonymous_bytes,
    has_spread,
    is_due,
    is_telling,
)

MIB, GIB = 1 << 20, 1 << 30
BEFORE = Look(5, 80 * MIB, 100.0)


@pytest.mark.parametrize(
    ("before", "now", "follows_growth", "due"),
    [
        (None, BEFORE, False, True),
        (BEFORE, BEFORE, True, False),
        (BEFORE, Look(6, 80 * MIB, 101.0), False, True),
        (BEFORE, Look(5, 89 * MIB, 101.0), True, False),
        (BEFORE, Look(5, 90 * MIB, 101.0), True, True),
        (BEFORE, Look(5, 90 * MIB, 101.0), False, False),
        (BEFORE, Look(5, 8 * MIB, 101.0), True, False),
        (Look(5, 4096, 100.0), Look(5, 8192, 101.0), True, False),
        (Look(5, 4096, 100.0), Look(5, 2 * MIB, 101.0), True, True),
        (BEFORE, Look(5, 80 * MIB, 100.0 + LONGEST_SECONDS), False, True),
    ],
    ids=[
        "never looked at",
        "as before",
        "another program",
        "grown by a little",
        "grown by an eighth",
        "grown, but all of it merges anyway",
        "shrunk",
        "small and still small",
        "no longer small",
        "long ago",
    ],
)
def test_due(before: Look | None, now: Look, *, follows_growth: bool, due: bool) -> None:
    """A look costs as the process has memory: never one each second, never none for ever."""
    assert is_due(before, now, follows_growth=follows_growth) is due


@pytest.mark.parametrize(
    ("now", "spread"),
    [
        (Look(5, 80 * MIB, 101.0, GIB), False),
        (Look(5, 80 * MIB, 101.0, 17 * GIB), True),
        (Look(5, 90 * MIB, 101.0, GIB), True),
    ],
    ids=["as before", "reserved more", "grown"],
)
def test_spread(now: Look, *, spread: bool) -> None:
    """A reservation is no growth, and costs ksmd all the same where it goes over every address."""
    assert has_spread(None, now)
    assert has_spread(Look(5, 80 * MIB, 100.0, GIB), now) is spread


def test_a_young_program_is_judged_as_often_as_it_has_ages_that_tell() -> None:
    """Its open files are a hundred system calls; a container has ten looks in its first seconds."""
    ages = [0.0, 0.01, 0.04, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0]
    judged, times = ages[0], []
    for age in ages[1:]:
        if is_telling(judged, age):
            judged = age
            times.append(age)
    assert times == list(TELLING_AGES)


def test_anonymous_memory_is_what_counts() -> None:
    """Files that a program reads are no growth; a kernel thread has none."""
    assert anonymous_bytes({"RssAnon": "    2048 kB", "VmRSS": "9999 kB"}) == 2 * MIB
    assert anonymous_bytes({}) == 0
