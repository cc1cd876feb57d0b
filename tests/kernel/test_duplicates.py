"""The count of duplicate pages, against processes whose memory is known page by page."""

import contextlib
import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from ksm_operator.kernel import KernelError, find_memory_hierarchy
from ksm_operator.kernel.duplicates import count_duplicates
from ksm_operator.kernel.procfs import Process, find_process, page_size
from ksm_operator.node.__main__ import main
from support import kernel, machine

PAGE = page_size()
PAGES = 512
PR_SET_THP_DISABLE = 41

HOLDER = """
import mmap, os, sys
kind, seed, pages = sys.argv[1], sys.argv[2], int(sys.argv[3])
page = os.sysconf("SC_PAGE_SIZE")
shared = mmap.MAP_SHARED if kind == "shared" else mmap.MAP_PRIVATE
area = mmap.mmap(-1, pages * page, flags=shared | mmap.MAP_ANONYMOUS)
area.madvise(15)  # MADV_NOHUGEPAGE: no page is there that was not written
for index in range(pages):
    if kind == "zeroes":
        area[index * page] = 0
    elif kind == "read":
        area[index * page]
    else:
        area[index * page : (index + 1) * page] = f"{seed} {index:6d} ".ljust(page, ".").encode()
if kind == "forked" and os.fork() == 0:
    print(os.getpid(), flush=True)
    sys.stdin.read()
    os._exit(0)
if kind == "merging":
    import ctypes
    assert ctypes.CDLL(None).prctl(67, 1, 0, 0, 0) == 0
if kind != "forked":
    print(os.getpid(), flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def holding(kind: str, seed: str, pages: int = PAGES) -> Iterator[list[Process]]:
    """A process that holds these pages; with `forked`, its child too."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, kind, seed, str(pages)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout
        pid = int(holder.stdout.readline())
        try:
            yield [find_process(one) for one in {holder.pid: None, pid: None}]
        finally:
            holder.communicate()


@pytest.fixture(autouse=True)
def root() -> None:
    """Reading another process's memory needs root."""
    if not kernel.is_root():
        machine.missing("These tests need root", "sudo make test")


@pytest.fixture(autouse=True)
def no_huge_pages() -> Iterator[None]:
    """A huge page would put more of an interpreter's own memory there at times than at others."""
    libc = ctypes.CDLL(None)
    assert libc.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0  # children inherit it
    yield
    assert libc.prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0) == 0


def test_pages_that_two_processes_hold_are_counted_as_duplicates() -> None:
    """The figure that everything else is judged by."""
    with holding("private", "same") as one, holding("private", "same") as two:
        found = count_duplicates([*one, *two])
        apart = [count_duplicates(one), count_duplicates(two)]
    between = found.duplicate_bytes - sum(each.duplicate_bytes for each in apart)
    assert between >= PAGES * PAGE
    assert between < (PAGES + 300) * PAGE, "an interpreter alone has few pages in common"
    assert found.pages == sum(each.pages for each in found.processes)


def test_pages_with_other_contents_are_no_duplicates() -> None:
    """A hash that mixes pages up would promise what merging cannot give."""
    with holding("private", "one") as one, holding("private", "two") as two:
        found = count_duplicates([*one, *two])
    assert found.distinct >= 2 * PAGES


def test_shared_memory_is_not_counted() -> None:
    """Merging never touches it, and the kernel keeps it once anyway."""
    with holding("shared", "same") as one, holding("private", "x", 1) as bare:
        assert abs(count_duplicates(one).pages - count_duplicates(bare).pages) < 100


def test_pages_that_fork_shares_are_counted_once() -> None:
    """They use no memory, so merging them could not give any back."""
    with holding("forked", "same") as family:
        assert len(family) == 2
        found = count_duplicates(family)
    assert found.forked_pages >= PAGES
    assert found.distinct >= PAGES
    assert found.pages < 2 * PAGES + 2500


def test_written_zeroes_count_and_the_kernels_zero_page_does_not() -> None:
    """Reading untouched memory maps the kernel's zero page, which costs nothing."""
    with holding("zeroes", "x") as written, holding("read", "x") as read:
        assert count_duplicates(written).zero_pages >= PAGES
        assert count_duplicates(read).zero_pages < PAGES


def test_a_limit_of_sharers_keeps_more_copies() -> None:
    """max_page_sharing bounds what can be saved."""
    with holding("zeroes", "x") as zeroes:
        free, limited = (count_duplicates(zeroes, max_page_sharing=limit) for limit in (None, 2))
    assert limited.kept - free.kept >= PAGES // 2 - 1
    assert limited.duplicate_bytes < free.duplicate_bytes


def test_merged_pages_count_as_before(ksm: None) -> None:
    """The ground truth must not change because it came true."""
    with (
        holding("merging", "same") as one,
        holding("merging", "same") as two,
        kernel.settings_put_back(),
    ):
        before = count_duplicates([*one, *two])
        kernel.write_setting("sleep_millisecs", 1)
        kernel.write_setting("pages_to_scan", 10_000)
        kernel.write_setting("run", 1)
        deadline = time.monotonic() + 60
        while min(kernel.merged_pages(each.pid) for each in (*one, *two)) < PAGES:
            assert time.monotonic() < deadline, "ksmd did not merge the pages within a minute"
            time.sleep(0.1)
        after = count_duplicates([*one, *two])
    assert after.distinct == pytest.approx(before.distinct, abs=50)
    assert after.duplicate_bytes == pytest.approx(before.duplicate_bytes, abs=50 * PAGE)


def test_a_process_that_died_is_told_apart() -> None:
    """Pods come and go while they are counted."""
    with holding("private", "same") as gone:
        pass
    (counted,) = count_duplicates(gone).processes
    assert not counted.complete
    assert counted.pages == 0


def test_without_the_right_to_read_memory_it_says_so() -> None:
    """A count of zero would be mistaken for the truth."""
    with holding("private", "same") as one:
        code = (
            "import os\n"
            "from ksm_operator.kernel.duplicates import count_duplicates\n"
            "from ksm_operator.kernel.procfs import find_process\n"
            "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            f"count_duplicates([find_process({one[0].pid})])\n"
        )
        failed = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=False,
            env={"PYTHONPATH": os.pathsep.join(sys.path)},
        )
    assert KernelError.__name__ in failed.stderr
    assert "root is needed" in failed.stderr


def test_ksm_node_counts_the_processes_of_a_cgroup(capsys: pytest.CaptureFixture[str]) -> None:
    """How a pod is looked at: its processes are whatever its cgroups hold."""
    hierarchy = find_memory_hierarchy()
    group = hierarchy.mount / f"ksm-operator-test-{os.getpid()}"
    inside = group / "container"
    inside.mkdir(parents=True)
    try:
        with holding("private", "same") as one, holding("private", "same") as two:
            (inside / "cgroup.procs").write_text(str(one[0].pid))
            assert main(["-o", "json", "duplicates", "--cgroup", f"/{group.name}"]) == 0
            alone = json.loads(capsys.readouterr().out)
            assert [each["pid"] for each in alone["processes"]] == [one[0].pid]
            assert main(["duplicates", "--cgroup", f"/{group.name}", str(two[0].pid)]) == 0
            assert "in 2 processes" in capsys.readouterr().out
    finally:
        inside.rmdir()
        group.rmdir()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name PIDs, or a --cgroup"),
        (["--cgroup", "/ksm-operator-test-none"], "no cgroup /ksm-operator-test-none"),
        (["4194305"], "process 4194305 is gone"),
    ],
)
def test_ksm_node_says_what_it_could_not_look_at(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistyped name must not read as `no duplicates`."""
    assert main(["duplicates", *arguments]) == 2
    assert words in capsys.readouterr().err
