"""Which pages are merged, held against what a program knows of its own and the kernel's sums."""

import secrets
from contextlib import closing
from pathlib import Path

import pytest

from kernel.conftest import Start, Target, wait_until
from kernel.test_release import merge, merged
from ksm_operator.kernel import ProcessGone, Tracer
from ksm_operator.kernel.maps import private_ranges, read_maps
from ksm_operator.kernel.merged_pages import MergedPages
from ksm_operator.kernel.procfs import page_size
from ksm_operator.kernel.ranges import Range
from support import kernel

EVERY_OTHER = """
import ctypes, mmap, os, sys
count, salt = int(sys.argv[1]), bytes.fromhex(sys.argv[2])
area = mmap.mmap(-1, count * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area.madvise(mmap.MADV_NOHUGEPAGE)
for page in range(count):
    # One has a twin in the other process, the next is nobody else's, the third is not there.
    if page % 3 < 2:
        start = (salt if page % 3 == 0 else os.urandom(8)) + page.to_bytes(8, "little")
        area[page * mmap.PAGESIZE : (page + 1) * mmap.PAGESIZE] = start * (mmap.PAGESIZE // 16)
print("ready", flush=True)
print(ctypes.addressof(ctypes.c_char.from_buffer(area)), flush=True)
sys.stdin.readline()
"""
COUNT = 3000
TWINS = list(range(0, COUNT, 3))

Twins = tuple[Target, Target, Range]


@pytest.fixture
def twins(start: Start, ksmd: None, tracer: Tracer) -> Twins:
    """Two processes with every third page the same, merged; and where in the first."""
    words = [str(COUNT), secrets.token_hex(8)]
    one, two = (start(*words, code=EVERY_OTHER) for _ in range(2))
    address = int(one.line())
    mebibytes = len(TWINS) * page_size() >> 20
    merge(tracer, one, two, mebibytes=mebibytes)
    where = Range(address, address + COUNT * page_size())
    with closing(MergedPages(one.process)) as pages:
        wait_until(lambda: len(pages.merged(where)) >= len(TWINS), "all twins merged")
    kernel.write_setting("run", 0)
    return one, two, where


def test_which_pages_are_merged(twins: Twins) -> None:
    """Exactly the twins, each at its place: a step is as large as what it costs."""
    target, _, where = twins
    with closing(MergedPages(target.process)) as pages:
        assert [number for number, _ in pages.merged(where)] == TWINS
        part = Range(where.start + page_size(), where.end - 4 * page_size())
        expected = [each - 1 for each in TWINS if 1 <= each < COUNT - 4]
        assert [number for number, _ in pages.merged(part)] == expected


def test_all_ranges_add_up_to_what_the_kernel_counts(twins: Twins) -> None:
    """So nothing merged is left for the one call at the end, unaccounted for."""
    target, _, _ = twins
    with closing(MergedPages(target.process)) as pages:
        found = sum(len(pages.merged(each)) for each in private_ranges(read_maps(target.process)))
    assert found * page_size() == merged(target)


def test_pages_that_nobody_else_maps_any_more(twins: Twins) -> None:
    """The last one with a merged page takes as long to give it back as any other."""
    target, other, where = twins
    other.kill()
    with closing(MergedPages(target.process)) as pages:
        assert [number for number, _ in pages.merged(where)] == TWINS


def test_where_nothing_was_touched(twins: Twins) -> None:
    """A reservation takes no steps."""
    target, _, where = twins
    with closing(MergedPages(target.process)) as pages:
        assert pages.any_present(where)
        third = where.start + 2 * page_size()
        assert not pages.any_present(Range(third, third + page_size()))


def test_without_page_flags_every_page_counts(twins: Twins, tmp_path: Path) -> None:
    """A kernel that does not tell (CONFIG_PROC_PAGE_MONITOR): never less than there is."""
    target, _, where = twins
    (tmp_path / str(target.pid)).symlink_to(f"/proc/{target.pid}")
    with closing(MergedPages(target.process, proc=tmp_path)) as pages:
        numbers = [number for number, _ in pages.merged(where)]
    assert numbers == [page for page in range(COUNT) if page % 3 < 2]


def test_a_process_that_ended(start: Start) -> None:
    """Said at once, before anything is looked at."""
    target = start("sh", "-c", "echo ready; read line")
    target.kill()
    with pytest.raises(ProcessGone):
        MergedPages(target.process)
