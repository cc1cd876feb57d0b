"""Who pays, computed from frames, payers and counts."""

import os
from array import array
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.kernel import KernelError, Process, Unsupported
from ksm_operator.kernel.frames import (
    BLOCK_PAGES,
    anonymous_frames,
    read_words,
    runs_of,
    sample,
)
from ksm_operator.kernel.payers import (
    MOST_AT_ONCE,
    SAMPLED_PAGES,
    batches,
    cgroup_inodes,
    sampling_step,
    survey_payers,
)
from ksm_operator.kernel.procfs import page_size
from ksm_operator.kernel.ranges import Range
from ksm_operator.kernel.shares import (
    Cost,
    Estimate,
    SharedPages,
    Survey,
    charged_elsewhere,
    group_pages,
    phantom_of,
    share_of,
)

PAGE = 4096
ONE, TWO, THREE = Process(1, 10), Process(2, 20), Process(3, 30)


def survey(*shared: SharedPages, every: int = 1) -> Survey:
    """A survey of just these pages."""
    return Survey(shared, every, PAGE, frozenset(), Cost(0, 0, 0.0))


def test_two_cgroups_of_which_one_pays() -> None:
    """The case of two pods with the same memory."""
    both = SharedPages(payer=100, mappers=((ONE, 1), (TWO, 1)), elsewhere=0, pages=12)
    payer = share_of(survey(both), {ONE}, {100})
    sharer = share_of(survey(both), {TWO}, {200})
    assert payer.merged == sharer.merged == Estimate(12 * PAGE)
    assert payer.paid == sharer.unpaid == Estimate(12 * PAGE)
    assert payer.unpaid == sharer.paid == payer.phantom == sharer.phantom == Estimate(0)


def test_phantom_charge() -> None:
    """Pages that a cgroup pays for after its own process gave them up."""
    left = SharedPages(payer=100, mappers=((TWO, 2),), elsewhere=0, pages=5)
    share = share_of(survey(left), {ONE}, {100})
    assert share.phantom == Estimate(5 * PAGE)
    assert share.merged == Estimate(0)
    assert share_of(survey(left), {TWO}, {200}).merged == Estimate(10 * PAGE)


def test_phantom_charge_of_a_node() -> None:
    """Of all cgroups, each page once; what a cgroup above pays for its own counts for nobody."""
    homes = {ONE: {100, 10}, TWO: {200, 20}}
    own = SharedPages(payer=100, mappers=((ONE, 1), (TWO, 1)), elsewhere=0, pages=3)
    pod = SharedPages(payer=10, mappers=((ONE, 1),), elsewhere=0, pages=4)
    left = SharedPages(payer=10, mappers=((TWO, 2),), elsewhere=0, pages=5)
    strange = SharedPages(payer=200, mappers=((THREE, 1),), elsewhere=0, pages=6)
    assert phantom_of(survey(own, pod, left, strange), homes) == Estimate(11 * PAGE)


def test_charges_that_a_removed_cgroup_left() -> None:
    """They show with the nearest cgroup above that is alive, where nobody lives."""
    left = SharedPages(payer=7, mappers=((TWO, 1),), elsewhere=0, pages=5)
    own = SharedPages(payer=8, mappers=((TWO, 1),), elsewhere=0, pages=1)
    assert charged_elsewhere(survey(left, own), {8}) == {7: Estimate(5 * PAGE)}


def test_what_cannot_be_told_for_sure_is_stated() -> None:
    """Where the kernel's flag says nothing, smaps is the judge of how much may be wrong."""
    both = SharedPages(payer=100, mappers=((ONE, 1), (TWO, 1)), elsewhere=0, pages=12)
    assert survey(both).doubtful_bytes == 0
    assert replace(survey(both), told_bytes=24 * PAGE).doubtful_bytes == 0
    assert replace(survey(both), told_bytes=30 * PAGE).doubtful_bytes == 6 * PAGE
    assert replace(survey(both), told_bytes=20 * PAGE).doubtful_bytes == 4 * PAGE
    sampled = replace(survey(both, every=64), told_bytes=24 * 64 * PAGE + PAGE)
    assert sampled.doubtful_bytes == 0, "within the error of the sample"


FRAMES = st.lists(st.integers(1, 60), max_size=80)


@given(FRAMES, FRAMES, st.integers(0, 3))
def test_groups_hold_every_mapping_once(one: list[int], two: list[int], more: int) -> None:
    """What the groups say of each process adds up to what was read of it."""
    distinct = sorted({*one, *two})
    counts = [one.count(frame) + two.count(frame) + more for frame in distinct]
    found = {ONE: array("Q", sorted(one)), TWO: array("Q", sorted(two))}
    groups = group_pages(found, [frame % 3 for frame in distinct], counts)
    assert sum(group.pages for group in groups) == len(distinct)
    assert {group.elsewhere for group in groups} <= {more}
    for process, frames in ((ONE, one), (TWO, two)):
        mapped = sum(dict(group.mappers).get(process, 0) * group.pages for group in groups)
        assert mapped == len(frames)
    assert sum(group.mappings * group.pages for group in groups) == len(one) + len(two)
    by_payer = Counter(frame % 3 for frame in distinct)
    assert Counter({group.payer: 0 for group in groups} | by_payer) == by_payer


def test_a_page_that_was_freed_meanwhile() -> None:
    """Its count no longer covers what was read: nobody else maps it, and nothing fails."""
    (group,) = group_pages({ONE: array("Q", [5, 5])}, [0], [0])
    assert group == SharedPages(0, ((ONE, 2),), 0, 1)


@given(st.lists(st.integers(1, 1 << 40)), st.sampled_from([1, 2, 16, 1024]))
def test_a_sample_is_of_frames(frames: list[int], every: int) -> None:
    """Two processes that map the same frame both have it in their sample, or neither has."""
    chosen = sample(frames, every)
    assert chosen == sorted(chosen)
    for frame in frames:
        assert chosen.count(frame) in (0, frames.count(frame))
    assert every != 1 or chosen == sorted(frames)


@pytest.mark.parametrize("step", [1, 3, 8, 512])
def test_the_stated_error_holds(step: int) -> None:
    """Frames at any regular distance: the estimate is within the error that it states."""
    frames = [1_000_000 + step * index for index in range(100_000)]
    for every in (2, 16, 128):
        estimate = survey(every=every).amount([(1, len(sample(frames, every)))])
        assert abs(estimate.size - len(frames) * PAGE) <= estimate.error
        assert estimate.error < len(frames) * PAGE / 10


def test_nothing_seen_in_a_sample_is_not_nothing() -> None:
    """One page in 64 looked at and none found: a few hundred may be there."""
    assert survey(every=64).amount([]) == Estimate(0, 3 * 64 * PAGE)
    assert survey(every=1).amount([]) == Estimate(0)


@given(st.integers(0, 1 << 34))
def test_the_sample_is_bounded(pages: int) -> None:
    """Neither more than it needs nor so few that the error grows."""
    step = sampling_step(pages)
    assert pages // step <= SAMPLED_PAGES
    assert step == 1 or pages // (step // 2) > SAMPLED_PAGES


@given(st.lists(st.integers(0, 300), max_size=60).map(sorted), st.integers(0, 9))
def test_runs_cover_all_and_little_else(frames: list[int], gap: int) -> None:
    """Each is in one run, runs are apart, and no hole within is wider than allowed."""
    runs = runs_of(frames, gap)
    for frame in frames:
        assert sum(first <= frame <= last for first, last in runs) == 1
    for (_, end), (start, _) in pairwise(runs):
        assert start - end > gap


@given(st.lists(st.integers(0, 120), max_size=60).map(sorted))
def test_words_come_in_order(frames: list[int]) -> None:
    """One word for each frame, and 0 beyond the end of the file."""
    with open("/dev/null", "rb") as nothing:  # noqa: PTH123 - for its descriptor
        assert list(read_words(nothing.fileno(), frames)) == [0] * len(frames)
    fd = os.memfd_create("words")
    try:
        os.write(fd, array("Q", range(1000, 1100)).tobytes())
        assert list(read_words(fd, frames)) == [1000 + f if f < 100 else 0 for f in frames]
    finally:
        os.close(fd)


def test_which_entries_are_private_memory() -> None:
    """Not what is swapped, absent, or of a file; soft-dirty and other bits do not matter."""
    present, swapped, file, dirty = 1 << 63, 1 << 62, 1 << 61, 1 << 55
    entries = [present | 7, present | dirty | 8, swapped | 9, present | file | 10, 0]
    assert anonymous_frames(array("Q", entries).tobytes()) == [7, 8]


def test_inodes_of_a_cgroup_and_below(tmp_path: Path) -> None:
    """Charges of a pod are those of its containers and of those within."""
    (tmp_path / "c" / "d").mkdir(parents=True)
    expected = {path.stat().st_ino for path in (tmp_path, tmp_path / "c", tmp_path / "c/d")}
    assert cgroup_inodes(tmp_path) == expected


def test_a_kernel_that_does_not_tell(tmp_path: Path) -> None:
    """The sentence names the file and what would provide it."""
    with pytest.raises(Unsupported, match=r"kpageflags .*CONFIG_MEMCG"):
        survey_payers([], proc=tmp_path)


def test_no_right_to_know(tmp_path: Path) -> None:
    """Said in words, with what to do."""
    (tmp_path / "kpageflags").symlink_to("/proc/self/mem/x")
    with pytest.raises(KernelError, match="root on the node is needed"):
        survey_payers([], proc=tmp_path)


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(1, 3 * BLOCK_PAGES)), max_size=200))
def test_every_entry_is_read_once_and_not_too_much_at_a_time(sizes: list[tuple[int, int]]) -> None:
    """A page left out would be a payer who is not known; a step must not keep others waiting."""
    size, at, ranges = page_size(), 0, []
    for hole, pages in sizes:
        ranges.append(Range((at + hole) * size, (at + hole + pages) * size))
        at += hole + pages
    read = []
    for batch in batches(ranges):
        assert 0 < len(batch) <= MOST_AT_ONCE
        assert sum(length for _, length in batch) <= 8 * BLOCK_PAGES
        read += [n for offset, length in batch for n in range(offset // 8, (offset + length) // 8)]
    assert read == [page for one in ranges for page in range(one.start // size, one.end // size)]
