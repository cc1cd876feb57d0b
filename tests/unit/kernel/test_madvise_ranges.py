"""Which ranges are marked mergeable, and how lists of ranges are reckoned with."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.kernel.chunks import cut, parts_of, windows
from ksm_operator.kernel.madvise import MOST_RANGES, SPARSE_FROM_BYTES, choose
from ksm_operator.kernel.marks import own_ranges
from ksm_operator.kernel.ranges import (
    Range,
    common,
    joined,
    without,
)
from ksm_operator.kernel.smaps import Vma
from ksm_operator.kernel.unmerge import CHUNK_BYTES

MIB = 1 << 20
PLAIN = Vma(16 * MIB, 32 * MIB, "", frozenset({"rd", "wr"}), 8 * MIB, 8 * MIB, 0)

RANGES = st.lists(
    st.tuples(st.integers(0, 60), st.integers(1, 12)).map(
        lambda pair: Range(pair[0], pair[0] + pair[1])
    ),
    max_size=12,
)


def addresses(ranges: tuple[Range, ...] | list[Range]) -> set[int]:
    """Every address of them, one by one."""
    return {address for each in ranges for address in range(each.start, each.end)}


@given(RANGES, RANGES)
def test_ranges_are_sets_of_addresses(some: list[Range], others: list[Range]) -> None:
    """An error here would unmark what is the program's own, or leave ours behind."""
    assert addresses(joined(some)) == addresses(some)
    assert addresses(common(some, others)) == addresses(some) & addresses(others)
    assert addresses(without(some, others)) == addresses(some) - addresses(others)
    for result in (joined(some), common(some, others), without(some, others)):
        assert list(result) == sorted(result)
        assert sum(each.size for each in result) == len(addresses(result)), "no address twice"


@given(RANGES, RANGES)
def test_giving_back_touches_ours_where_it_is_marked(marks: list[Range], ours: list[Range]) -> None:
    """Not one page of the program's own marks, and every page of ours that is still marked."""
    page = 4096
    scaled = [Range(each.start * page, each.end * page) for each in joined(ours)]
    vmas = [
        Vma(each.start * page, each.end * page, "", frozenset({"mg"}), 0, page, 0)
        for each in joined(marks)
    ]
    pieces = [
        step
        for part in parts_of(vmas, scaled)
        for window in windows(part)
        for step in cut(window, (), CHUNK_BYTES, page)
    ]
    touched = {
        address // page
        for piece in pieces
        for address in range(piece.start, piece.start + piece.length, page)
    }
    assert touched == addresses(marks) & addresses(ours)


def test_populated_anonymous_memory_is_marked() -> None:
    """The plain case: heap, mappings, and those that a program gave a name."""
    for name in ("", "[heap]", "[anon:glibc: malloc]"):
        assert choose([replace(PLAIN, name=name)]) == (Range(PLAIN.start, PLAIN.end),)


@pytest.mark.parametrize(
    ("why", "change"),
    [
        ("the program's own mark", {"flags": frozenset({"mg"})}),
        ("locked", {"flags": frozenset({"lo"})}),
        ("missing faults go to a userfaultfd", {"flags": frozenset({"um"})}),
        ("write-protect faults do", {"flags": frozenset({"uw"})}),
        ("minor faults do", {"flags": frozenset({"ui"})}),
        ("huge pages were asked for", {"flags": frozenset({"hg"})}),
        ("huge pages are there", {"huge_bytes": 2 * MIB}),
        ("shared", {"flags": frozenset({"sh", "ms"})}),
        ("a device's", {"flags": frozenset({"io"})}),
        ("page frames without pages", {"flags": frozenset({"pf"})}),
        ("hugetlb", {"flags": frozenset({"ht"})}),
        ("droppable", {"flags": frozenset({"dp"})}),
        ("shadow stack", {"flags": frozenset({"ss"})}),
        ("a memory protection key", {"protection_key": 1}),
        ("sealed", {"flags": frozenset({"sl"})}),
        ("nothing in it", {"anonymous_bytes": 0}),
        ("a stack", {"name": "[stack]"}),
        ("a file", {"name": "/usr/lib/libc.so.6"}),
    ],
)
def test_what_is_left_alone(why: str, change: dict[str, object]) -> None:
    """Each of these would be harmed, or was decided by the program, or cannot merge."""
    assert choose([replace(PLAIN, **change)]) == (), why  # type: ignore[arg-type]


def test_huge_pages_are_split_when_told_to() -> None:
    """The policy decides whether sharing is worth more than they are."""
    huge = replace(PLAIN, flags=frozenset({"hg"}), huge_bytes=8 * MIB)
    assert choose([huge], split_huge_pages=True)


def test_reservations_are_left_alone() -> None:
    """Before 6.18 ksmd would walk over every address of one, for ever."""
    end = PLAIN.start + SPARSE_FROM_BYTES
    assert not choose([replace(PLAIN, end=end, anonymous_bytes=MIB)])
    assert choose([replace(PLAIN, end=end, anonymous_bytes=SPARSE_FROM_BYTES // 8)])
    assert choose([replace(PLAIN, end=end - 1, anonymous_bytes=4096)])


def test_what_the_program_withdrew_is_left_alone() -> None:
    """It was marked by us, and is not any more: the program said no."""
    ours = [Range(PLAIN.start, PLAIN.start + 4 * MIB)]
    assert choose([PLAIN], ours) == (Range(PLAIN.start + 4 * MIB, PLAIN.end),)
    assert choose([PLAIN], [Range(PLAIN.start, PLAIN.end)]) == ()


def test_the_fullest_come_first() -> None:
    """A process with more ranges than one go takes gets most of its memory marked first."""
    many = [
        replace(PLAIN, start=at * MIB, end=at * MIB + 8192, anonymous_bytes=4096)
        for at in range(MOST_RANGES)
    ]
    full = replace(PLAIN, start=2 * MOST_RANGES * MIB, end=(2 * MOST_RANGES + 8) * MIB)
    chosen = choose([*many, full])
    assert len(chosen) == MOST_RANGES
    assert chosen[-1] == Range(full.start, full.end)


def test_own_ranges_are_those_that_are_marked() -> None:
    """Neighbours that differ in another flag are one range to madvise."""
    marked = replace(PLAIN, flags=frozenset({"mg"}))
    after = replace(marked, start=PLAIN.end, end=PLAIN.end + MIB)
    other = replace(PLAIN, start=after.end, end=after.end + MIB)
    assert own_ranges([marked, after, other]) == (Range(PLAIN.start, after.end),)
