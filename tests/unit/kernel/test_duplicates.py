from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.kernel.duplicates import kept_pages, runs

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


@given(st.lists(st.integers(1, 10_000), max_size=20))
def test_without_a_limit_one_page_is_kept_of_each_content(counts: list[int]) -> None:
    """What merging could do at best."""
    assert kept_pages(counts, None) == len(counts)


@given(st.lists(st.integers(1, 10_000), max_size=20), st.integers(2, 300))
def test_no_kept_page_has_more_sharers_than_the_limit(counts: list[int], limit: int) -> None:
    """max_page_sharing asks for one more copy whenever a copy is full, and for no other."""
    kept = kept_pages(counts, limit)
    assert kept * limit >= sum(counts)
    assert kept - len(counts) <= sum(counts) // limit
