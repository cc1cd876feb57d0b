"""The steps of a release: every address once, no step dearer than it says."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.kernel.chunks import (
    MOST_WINDOWS,
    STEPS_PER_VISIT,
    WALK_BYTES,
    Chunk,
    cut,
    goes_with,
    is_full,
    may_be_stepped,
    windows,
)
from ksm_operator.kernel.ranges import Range
from ksm_operator.kernel.smaps import Vma
from ksm_operator.kernel.unmerge import CHUNK_BYTES

PAGE = 4096
START = 1 << 30

MERGED = st.tuples(st.integers(1, 2000), st.integers(1, 40)).flatmap(
    lambda both: st.tuples(
        st.just(Range(START, START + both[0] * PAGE)),
        st.lists(st.integers(0, both[0] - 1), unique=True).map(sorted),
        st.just(both[1] * PAGE),
    )
)
"""A window, the numbers of its merged pages, and how much of them a step may take."""


@given(st.integers(0, 1 << 20), st.integers(1, 1 << 34))
def test_windows_make_up_the_range(first: int, pages: int) -> None:
    """No address is left out, and there are not more visits than anybody waits for."""
    start = first * PAGE
    where = Range(start, start + pages * PAGE)
    found = list(windows(where))
    assert [each.start for each in found] == [start, *(each.end for each in found[:-1])]
    assert found[-1].end == where.end
    assert len(found) <= MOST_WINDOWS + 1
    if where.size <= WALK_BYTES * MOST_WINDOWS:
        assert max(each.size for each in found) <= WALK_BYTES
    assert all(each.end % WALK_BYTES == 0 for each in found[:-1]), "a huge page was cut"


@given(MERGED)
def test_steps_cover_the_window_once(one: tuple[Range, list[int], int]) -> None:
    """Every address is in one step, and each costs what is merged in it, up to what it may."""
    window, merged, chunk_bytes = one
    address = window.start
    for step in cut(window, merged, chunk_bytes, PAGE):
        assert step.start == address
        address += step.length
        inside = [each for each in merged if step.start <= START + each * PAGE < address]
        assert step.worst_bytes == len(inside) * PAGE <= chunk_bytes
        assert step.length > 0
    assert address == window.end


def test_dense_memory_goes_in_small_steps() -> None:
    """A step of merged memory is half a MiB: milliseconds for the other threads."""
    pages = 1 << 12
    window = Range(START, START + pages * PAGE)
    steps = list(cut(window, range(pages), CHUNK_BYTES, PAGE))
    assert {step.length for step in steps} == {CHUNK_BYTES}


SMALL = Chunk(START, PAGE, PAGE)


@pytest.mark.parametrize(
    ("lot", "chunk", "goes"),
    [
        ([SMALL], SMALL, True),
        ([SMALL] * STEPS_PER_VISIT, SMALL, False),
        ([SMALL], replace(SMALL, worst_bytes=CHUNK_BYTES), False),
        ([SMALL], replace(SMALL, worst_bytes=CHUNK_BYTES - PAGE), True),
        ([SMALL], replace(SMALL, length=WALK_BYTES), False),
    ],
)
def test_small_steps_share_a_visit(lot: list[Chunk], chunk: Chunk, *, goes: bool) -> None:
    """The thread that makes the calls waits for all of them, so they are no more than one step."""
    assert goes_with(lot, chunk, CHUNK_BYTES) is goes


def test_a_full_visit_waits_for_nothing_more() -> None:
    """What was counted is true of that moment."""
    assert not is_full([SMALL], CHUNK_BYTES)
    assert is_full([SMALL] * STEPS_PER_VISIT, CHUNK_BYTES)
    assert is_full([replace(SMALL, worst_bytes=CHUNK_BYTES)], CHUNK_BYTES)
    assert is_full([replace(SMALL, length=WALK_BYTES, worst_bytes=0)], CHUNK_BYTES)


VMA = Vma(START, START + 10 * PAGE, "", frozenset({"mg"}), 0, 10 * PAGE, 10 * PAGE)


def test_which_ranges_may_be_stepped() -> None:
    """Marked ones; not code, which tells before 6.14 that a process still merges everything."""
    assert may_be_stepped(VMA)
    assert not may_be_stepped(replace(VMA, flags=frozenset({"rd"})))
    code = replace(VMA, name="/usr/bin/program", flags=VMA.flags | {"ex"})
    assert not may_be_stepped(code)
    assert may_be_stepped(replace(code, name=""))


def test_ranges_with_high_flags_take_no_step() -> None:
    """Some kernels drop protection keys and shadow stacks in a step: the target would crash."""
    assert not may_be_stepped(replace(VMA, protection_key=1))
    assert not may_be_stepped(replace(VMA, flags=VMA.flags | {"ss"}))
    assert may_be_stepped(replace(VMA, protection_key=1), keeps_flags=True)
