from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.kernel.duplicates import kept_pages


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
