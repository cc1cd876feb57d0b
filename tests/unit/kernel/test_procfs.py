"""Parsers of /proc: every form that kernels print, and no text that breaks them."""

from pathlib import Path

import pytest

from ksm_operator.kernel import KsmStat, Process, ProcessGone, find_process
from ksm_operator.kernel.mergeable import is_mergeable, mergeable_processes
from ksm_operator.kernel.procfs import (
    check_alive,
    is_alive,
    parse_cgroup,
    parse_meminfo,
    parse_stat,
)

STAT = (
    "{pid} ({comm}) {state} 1 7 7 0 -1 {flags} 1 0 0 0 1 2 0 0 20 0 1 0 {start} 10 5 "
    "18446744073709551615 1 1 0 0 0 0 0 4096 0 1 0 0 17 0 0 {policy} 0 0 0 0 0 0 0 0 0 0 0"
)


def stat_line(
    pid: int = 9,
    *,
    comm: str = "a",
    state: str = "S",
    flags: int = 0,
    start: int = 5,
    policy: int = 0,
) -> str:
    """A line as the kernel prints it; the policy is field 41."""
    return STAT.format(pid=pid, comm=comm, state=state, flags=flags, start=start, policy=policy)


def process(proc: Path, pid: int, line: str, **files: str) -> Path:
    """A process in a fake /proc, with one thread."""
    for directory in (proc / str(pid), proc / str(pid) / "task" / str(pid)):
        directory.mkdir(parents=True)
        (directory / "stat").write_text(line)
        for name, text in files.items():
            (directory / name).write_text(text)
    return proc / str(pid)


@pytest.mark.parametrize("comm", ["sh", "a b", "x) R 1", "((", ""])
def test_any_name_of_a_process(comm: str) -> None:
    """A process names itself: brackets and spaces must not shift the fields."""
    stat = parse_stat(stat_line(comm=comm, state="D", flags=0x200000, start=99, policy=2))
    assert (stat.comm, stat.state, stat.start_time, stat.policy) == (comm, "D", 99, 2)
    assert stat.is_kernel_thread


@pytest.mark.parametrize(("code", "found"), [("94000", 140733), ("0", 0)])
def test_a_program_is_told_by_its_stack(code: str, found: int) -> None:
    """In the middle of an exec the stack is there and still moves; the code comes last."""
    before = stat_line()
    line = before.replace("18446744073709551615 1 1 0 ", f"18446744073709551615 {code} 1 140733 ")
    assert line != before
    assert parse_stat(line).start_stack == found


def test_who_is_mergeable() -> None:
    """The flag where the kernel has it, the traces of ksmd's work where not."""
    assert is_mergeable(KsmStat(merge_any=True, mergeable=False))
    assert is_mergeable(KsmStat(merge_any=False, mergeable=True))
    assert not is_mergeable(KsmStat(merge_any=False, mergeable=False, merging_pages=1))
    assert is_mergeable(KsmStat(merging_pages=1))
    assert is_mergeable(KsmStat(rmap_items=5))
    assert not is_mergeable(KsmStat())


def test_cgroup_paths_by_controller() -> None:
    """Version 1, version 2 and both at once; a path may hold colons."""
    paths = parse_cgroup("4:memory:/a:b\n2:cpu,cpuacct:/c\n1:name=systemd:/d\n0::/e\n")
    assert paths == {"memory": "/a:b", "cpu": "/c", "cpuacct": "/c", "name=systemd": "/d", "": "/e"}


def test_meminfo_in_bytes() -> None:
    """Lines with a unit are kilobytes; counts stay counts."""
    assert parse_meminfo("MemTotal:  4 kB\nHugePages_Total:   3\nodd\n") == {
        "MemTotal": 4096,
        "HugePages_Total": 3,
    }


def test_another_process_with_the_same_pid_is_another(tmp_path: Path) -> None:
    """The start time is half of the identity."""
    process(tmp_path, 9, stat_line(start=5))
    assert find_process(9, proc=tmp_path) == Process(9, 5)
    assert is_alive(Process(9, 5), proc=tmp_path)
    assert not is_alive(Process(9, 6), proc=tmp_path)
    with pytest.raises(ProcessGone):
        check_alive(Process(9, 6), proc=tmp_path)
    with pytest.raises(ProcessGone):
        find_process(10, proc=tmp_path)


def test_zombie_is_gone_unless_a_thread_lives(tmp_path: Path) -> None:
    """A main thread that has exited leaves the memory to the others."""
    directory = process(tmp_path, 9, stat_line(state="Z"))
    assert not is_alive(Process(9, 5), proc=tmp_path)
    (directory / "task" / "12").mkdir()
    (directory / "task" / "12" / "stat").write_text(stat_line(pid=12))
    assert is_alive(Process(9, 5), proc=tmp_path)


def test_scan_passes_over_what_it_cannot_read(tmp_path: Path) -> None:
    """Processes exit in the middle of a scan."""
    process(tmp_path, 9, stat_line(), ksm_stat="ksm_merge_any: yes\nksm_mergeable: yes\n")
    (tmp_path / "10").mkdir()
    (tmp_path / "self").mkdir()
    assert [found.process.pid for found in mergeable_processes(proc=tmp_path)] == [9]
