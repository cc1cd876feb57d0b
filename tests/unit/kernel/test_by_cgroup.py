"""The shares of all containers of a node at once, and what they would use without merging."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.kernel import Estimate, Hierarchy, Process, Share, Survey, share_of
from ksm_operator.kernel.by_cgroup import shares_of_all, without_merging
from ksm_operator.kernel.shares import Cost, SharedPages
from ksm_operator.kernel.usage import read_working_set

PAGE = 4096
PROCESSES = tuple(Process(pid, pid * 10) for pid in range(1, 7))
INODES = range(100, 105)

SHARED = st.builds(
    SharedPages,
    payer=st.sampled_from([0, 7, *INODES]),
    mappers=st.dictionaries(
        st.sampled_from(PROCESSES), st.integers(1, 3), min_size=1, max_size=4
    ).map(lambda found: tuple(found.items())),
    elsewhere=st.integers(0, 2),
    pages=st.integers(1, 50),
)
SURVEYS = st.builds(
    Survey,
    shared=st.lists(SHARED, max_size=8).map(tuple),
    every=st.sampled_from([1, 2, 16]),
    page_size=st.just(PAGE),
    gone=st.just(frozenset()),
    cost=st.just(Cost(0, 0, 0.0)),
)
NAMES = st.sampled_from(["a", "b", "c"])


@given(
    SURVEYS,
    st.dictionaries(st.sampled_from(PROCESSES), NAMES),
    st.dictionaries(st.sampled_from(INODES), NAMES),
)
def test_all_at_once_is_each_by_itself(
    survey: Survey, homes: dict[Process, str], payers: dict[int, str]
) -> None:
    """Going over the survey once for a node's containers changes nothing of what is said."""
    found = shares_of_all(survey, homes, payers)
    assert set(found) == {*homes.values(), *payers.values()}
    for name, share in found.items():
        own = {process for process, home in homes.items() if home == name}
        inodes = {inode for inode, payer in payers.items() if payer == name}
        assert share == share_of(survey, own, inodes)


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))
def test_merging_leaves_the_figure_as_it_was(own: int, both: int, zero: int, others: int) -> None:
    """Two containers with pages of their own, and pages that are alike: each figure stays.

    The first pays for all that both have, and for what the second has twice; whose zero pages
    nobody pays for.
    """
    one, two, first, second = *PROCESSES[:2], 100, 101
    shared = (
        SharedPages(first, ((one, 1), (two, 1)), 0, both),
        SharedPages(first, ((two, 2),), 0, others),
    )
    survey = Survey(shared, 1, PAGE, frozenset(), Cost(0, 0, 0.0))
    shares = shares_of_all(survey, {one: "one", two: "two"}, {first: "one", second: "two"})
    working_set = {"one": own + both + others, "two": own}
    before = {"one": own + both, "two": own + both + 2 * others + zero}
    for name, pages in before.items():
        zeroes = zero * PAGE if name == "two" else 0
        found = without_merging(shares[name], working_set[name] * PAGE, zeroes)
        assert found == Estimate(pages * PAGE)


def test_the_error_is_that_of_its_parts() -> None:
    """Whoever sizes a pod by it sees how far it may be out; and no figure is below nothing."""
    share = Share(Estimate(5, 1), Estimate(50, 2), Estimate(0, 8), Estimate(0, 4))
    assert without_merging(share, 20, 0) == Estimate(0, 7)


@pytest.mark.parametrize(
    ("version", "usage_file", "stat"),
    [
        (1, "memory.usage_in_bytes", "inactive_file 1\ntotal_inactive_file 300\n"),
        (2, "memory.current", "inactive_file 300\n"),
    ],
)
def test_the_working_set_is_the_kubelets(
    tmp_path: Path, version: int, usage_file: str, stat: str
) -> None:
    """The same words in both versions, or the figure says another thing on another node."""
    (tmp_path / usage_file).write_text("1000\n")
    (tmp_path / "memory.stat").write_text(stat)
    hierarchy = Hierarchy(version, tmp_path)
    assert read_working_set(hierarchy, tmp_path) == 700
    assert read_working_set(hierarchy, tmp_path / "gone") is None
    (tmp_path / usage_file).write_text("100\n")
    assert read_working_set(hierarchy, tmp_path) == 0
