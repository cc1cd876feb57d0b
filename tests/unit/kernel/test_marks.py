"""What is kept on record of an enrolment, and to whom it applies."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.kernel import Marks, Process, Range
from ksm_operator.kernel.marks import inherited
from ksm_operator.kernel.ranges import from_numbers, joined, to_numbers
from ksm_operator.kernel.smaps import Vma

MIB = 1 << 20
PLAIN = Vma(16 * MIB, 32 * MIB, "", frozenset({"rd", "wr"}), 8 * MIB, 8 * MIB, 0)
PARENTS = {30: 20, 20: 10, 10: 1, 40: 1, 50: 30}


@given(st.lists(st.tuples(st.integers(0, 2**35), st.integers(1, 2**20)), max_size=12))
def test_a_record_is_read_as_it_was_written(pages: list[tuple[int, int]]) -> None:
    """What is lost or gained between two agents would be left behind, or taken from the program."""
    scaled = joined(Range(at << 12, (at + count) << 12) for at, count in pages)
    assert from_numbers(to_numbers(scaled)) == scaled
    marks = Marks("Madvise", 7 << 40, scaled, scaled[:1])
    assert Marks.from_list(marks.to_list()) == marks


@pytest.mark.parametrize(
    "data",
    [
        ["Madvise", 1, [1]],
        ["Other", 1, [], []],
        ["Madvise", 1, [1], []],
        ["Madvise", 1, [-1, 1], []],
        ["Madvise", 1, [1, 0], []],
        ["Madvise", "x", [], []],
    ],
)
def test_a_damaged_record_is_refused(data: list[object]) -> None:
    """Guessed ranges would be somebody else's."""
    with pytest.raises((ValueError, TypeError)):
        Marks.from_list(data)


def test_after_the_deed_only_what_was_done_is_on_record() -> None:
    """A range of the intent that is not marked was replaced; one of before was withdrawn."""
    vmas = [
        replace(PLAIN, flags=frozenset({"mg"})),
        replace(PLAIN, start=PLAIN.end, end=PLAIN.end + MIB),
    ]
    before = Range(PLAIN.end, PLAIN.end + 4 * MIB)
    intended = (Range(PLAIN.start, PLAIN.start + MIB), Range(0, MIB))
    marks = Marks("Madvise", 1, (before,), intended).marked(vmas)
    assert marks.intended == ()
    assert marks.ranges == (intended[0], Range(PLAIN.end, PLAIN.end + MIB))


FIRST, SECOND, THIRD = Range(0, 4096), Range(8192, 12288), Range(16384, 20480)


@pytest.mark.parametrize(
    ("marks", "ranges"),
    [
        ({10: Marks("Madvise", 5, (FIRST,), (SECOND,))}, (FIRST, SECOND)),
        ({10: Marks("Madvise", 6, (FIRST,))}, None),
        ({20: Marks("Madvise", 5, (FIRST,)), 10: Marks("Madvise", 5, (SECOND,))}, (FIRST,)),
        ({60: Marks("Madvise", 5, (FIRST,)), 70: Marks("Madvise", 5, (THIRD,))}, (FIRST, THIRD)),
        ({10: Marks("Prctl", 5, (FIRST,))}, (FIRST,)),
        ({}, None),
    ],
    ids=[
        "its parent's, what was intended too",
        "its parent runs another program now",
        "the nearest one's",
        "its parent has ended: anybody's of that program",
        "what the program had marked itself",
        "nobody's",
    ],
)
def test_which_marks_a_child_has_from_its_parent(
    marks: dict[int, Marks], ranges: tuple[Range, ...] | None
) -> None:
    """Fork's child has them without a visit, and must be given back exactly those."""
    records = {Process(pid, 1): one for pid, one in marks.items()}
    found = inherited(Process(30, 1), 5, records, PARENTS.get)
    assert (None if found is None else found.ranges) == ranges
