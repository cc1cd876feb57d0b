"""Which pages are merged, held against what a program knows of its own and the kernel's sums."""

from contextlib import closing
from pathlib import Path

import pytest

from kernel.conftest import Start
from kernel.test_release import merged
from kernel.twins import COUNT, TWINS, Twins, merged_twins
from ksm_operator.kernel import ProcessGone, Tracer
from ksm_operator.kernel.maps import private, read_maps
from ksm_operator.kernel.merged_pages import MergedPages
from ksm_operator.kernel.procfs import page_size
from ksm_operator.kernel.ranges import Range


@pytest.fixture
def twins(start: Start, ksmd: None, tracer: Tracer) -> Twins:
    """See `merged_twins`."""
    return merged_twins(start, tracer)


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
        mappings = private(read_maps(target.process))
        found = sum(len(pages.merged(Range(one.start, one.end))) for one in mappings)
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
