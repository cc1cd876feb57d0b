"""How a person names a container."""

import argparse
from pathlib import Path

import pytest

from ksm_operator.kernel import Hierarchy, KernelError
from ksm_operator.node.selection import cgroup_directory, pid, processes_in


@pytest.mark.parametrize(
    "name", ["/pods/c", "pods/c", "{mount}/pods/c", "{mount}/pods/c/", "/pods/c/"]
)
def test_a_directory_or_what_proc_says(tmp_path: Path, name: str) -> None:
    """Both are what a person has at hand, copied from a shell or from /proc/PID/cgroup."""
    (tmp_path / "pods/c").mkdir(parents=True)
    found = cgroup_directory(Hierarchy(1, tmp_path), name.format(mount=tmp_path))
    assert found == tmp_path / "pods/c"


@pytest.mark.parametrize("name", ["/none", "/pods/../pods/c", "{mount}/..", "/tmp"])
def test_no_such_cgroup(tmp_path: Path, name: str) -> None:
    """Refused in words; nothing outside of the hierarchy is ever looked at."""
    (tmp_path / "pods/c").mkdir(parents=True)
    with pytest.raises(KernelError, match="cgroup"):
        cgroup_directory(Hierarchy(1, tmp_path), name.format(mount=tmp_path))


def test_processes_that_are_gone_are_passed_over(tmp_path: Path) -> None:
    """A container changes while it is listed."""
    (tmp_path / "cgroup.procs").write_text("4194304\n1\n")
    (tmp_path / "c").mkdir()
    (tmp_path / "c/cgroup.procs").write_text("1\n")
    assert [one.pid for one in processes_in([tmp_path, tmp_path / "c"])] == [1]


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "1.5"])
def test_what_is_no_pid(text: str) -> None:
    """Said by argparse, before anything is read."""
    with pytest.raises(argparse.ArgumentTypeError):
        pid(text)
