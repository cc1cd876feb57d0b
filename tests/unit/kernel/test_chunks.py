"""The steps of a release: every address once, no step dearer than it says."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.kernel.chunks import SPARSE_CHUNK_BYTES, aligned, chunks, halved, needs_step
from ksm_operator.kernel.release import CHUNK_BYTES
from ksm_operator.kernel.smaps import Vma

PAGE = 4096


def vma(pages: int, merged: int, *, anonymous: int | None = None, flags: str = "mg") -> Vma:
    """A range of so many pages, of which so many are merged."""
    touched = merged if anonymous is None else anonymous
    size = pages * PAGE
    return Vma(1 << 30, (1 << 30) + size, "", frozenset({flags}), 0, touched * PAGE, merged * PAGE)


RANGES = st.integers(1, 1 << 22).flatmap(
    lambda pages: st.integers(0, pages).map(lambda merged: vma(pages, merged))
)


@given(RANGES)
def test_steps_cover_the_range_once(one: Vma) -> None:
    """No address is left out and none visited twice; every start is page-aligned."""
    address = one.start
    for step in chunks(one, CHUNK_BYTES, 0):
        assert step.start == address
        assert step.start % PAGE == 0
        assert 0 < step.length <= SPARSE_CHUNK_BYTES
        assert step.worst_bytes == min(step.length, one.ksm_bytes)
        address += step.length
    assert address == one.end


def test_dense_memory_goes_in_small_steps() -> None:
    """A step of merged memory is 2 MiB: milliseconds for the other threads."""
    steps = chunks(vma(1 << 14, 1 << 14), CHUNK_BYTES, 0)
    assert {step.length for step in steps} == {CHUNK_BYTES}


def test_empty_reservations_go_in_large_steps() -> None:
    """Sixteen thousand visits for a range without a single merged page would be no better."""
    steps = chunks(vma(1 << 22, 0), CHUNK_BYTES, 0)
    assert {step.length for step in steps} == {SPARSE_CHUNK_BYTES}


@given(RANGES)
def test_halves_make_up_the_whole(one: Vma) -> None:
    """A step that does not fit is cut down to 64 KiB, then given up."""
    for step in chunks(one, CHUNK_BYTES, 0)[:3]:
        halves = halved(step)
        if halves is None:
            assert step.length < 2 * 64 * 1024
            continue
        left, right = halves
        assert left.start == step.start
        assert right.start == left.start + left.length
        assert left.length + right.length == step.length
        assert max(left.worst_bytes, right.worst_bytes) <= step.worst_bytes


def test_which_ranges_need_a_step() -> None:
    """Merged ones; large ones that were touched; any, once zeroes were merged."""
    assert needs_step(vma(10, 1), 0)
    assert not needs_step(vma(10, 0), 0)
    assert needs_step(vma(10, 0), PAGE)
    assert not needs_step(vma(10, 10, flags="rd"), PAGE)
    assert not needs_step(vma(1 << 20, 0), 0)
    assert needs_step(vma(1 << 20, 0, anonymous=1), 0)


def test_code_keeps_its_mark_to_the_end() -> None:
    """Before 6.14 nothing else tells a half released process from one that marked itself."""
    code = vma(10, 0)
    code = replace(code, name="/usr/bin/program", flags=code.flags | {"ex"})
    assert not needs_step(code, PAGE)
    assert needs_step(replace(code, name=""), PAGE)


def test_ranges_with_high_flags_take_no_step() -> None:
    """Some kernels drop protection keys and shadow stacks in a step: the target would crash."""
    merged = vma(10, 10)
    assert not needs_step(replace(merged, protection_key=1), 0)
    assert not needs_step(replace(merged, flags=merged.flags | {"ss"}), 0)
    assert needs_step(replace(merged, protection_key=1), 0, keeps_flags=True)


@given(st.integers(0, 1 << 40))
def test_alignment_is_that_of_the_largest_pages(length: int) -> None:
    """64 KiB pages exist; a step is at least one of them."""
    assert aligned(length) % 65536 == 0
    assert aligned(length) >= 65536
