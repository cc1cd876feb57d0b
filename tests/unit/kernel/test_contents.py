"""Reading a process's memory in runs of pages."""

from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.kernel.contents import runs

LONGEST = 4


@given(st.lists(st.booleans(), max_size=50))
def test_runs_cover_exactly_the_wanted_entries(wanted: list[bool]) -> None:
    """A page left out or read twice would make the ground truth wrong."""
    found = list(runs(wanted, LONGEST))
    covered = [index for start, length in found for index in range(start, start + length)]
    assert covered == [index for index, one in enumerate(wanted) if one]


@given(st.lists(st.booleans(), max_size=50))
def test_runs_are_never_longer_than_the_buffer(wanted: list[bool]) -> None:
    """The length bounds the memory that reading another process takes."""
    assert all(0 < length <= LONGEST for _, length in runs(wanted, LONGEST))
