"""What page tables say."""

import os

from benchmarks.governor.pages import Pages, parse, read_pages

ROLLUP = """\
563a0b0d2000-7ffd1b1f5000 ---p 00000000 00:00 0                          [rollup]
Rss:               10240 kB
KSM:                 512 kB
AnonHugePages:      4096 kB
THPeligible:           0
"""


def test_both_are_in_bytes() -> None:
    """The file has kB."""
    assert parse(ROLLUP) == Pages(merged=512 << 10, huge=4 << 20)


def test_who_is_gone_has_nothing() -> None:
    """A program may end between two looks; one that is on its way out has an empty file."""
    assert parse("") == read_pages(-1) == Pages()
    assert read_pages(os.getpid()).merged == 0
