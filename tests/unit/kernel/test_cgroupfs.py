"""Finding the memory hierarchy, and the room in it, on trees of either version."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.kernel import (
    Hierarchy,
    KernelError,
    Unsupported,
    find_memory_hierarchy,
    memory_headroom,
    node_headroom,
    pids,
    walk,
)
from ksm_operator.kernel.headroom import level_headroom, parse_memory_stat, reclaimable_bytes

V1 = "35 31 0:32 / {at} rw,relatime shared:9 - cgroup cgroup rw,memory\n"
V2 = "41 31 0:38 / {at} rw,relatime - cgroup2 cgroup2 rw\n"


def fake_proc(root: Path, mountinfo: str, *, same_namespace: bool = True) -> Path:
    """A /proc in which pid 1 has these mounts."""
    for name, namespace in (("1", "mnt:[1]"), ("self", "mnt:[1]" if same_namespace else "mnt:[2]")):
        (root / name / "ns").mkdir(parents=True)
        (root / name / "ns" / "mnt").symlink_to(namespace)
        (root / name / "mountinfo").write_text(mountinfo)
    return root


def test_version_1_wins_where_memory_is_there(tmp_path: Path) -> None:
    """On a hybrid machine the unified mount has no memory controller."""
    v1, v2 = tmp_path / "memory", tmp_path / "unified"
    v1.mkdir()
    v2.mkdir()
    (v2 / "cgroup.controllers").write_text("cpu\n")
    proc = fake_proc(tmp_path / "proc", V2.format(at=v2) + V1.format(at=v1))
    assert find_memory_hierarchy(proc=proc) == Hierarchy(1, v1)


def test_version_2(tmp_path: Path) -> None:
    """The unified mount, when it accounts memory; a space in the path is escaped."""
    mount = tmp_path / "c group"
    mount.mkdir()
    proc = fake_proc(tmp_path / "proc", V2.format(at=str(mount).replace(" ", "\\040")))
    with pytest.raises(Unsupported):
        find_memory_hierarchy(proc=proc)
    (mount / "cgroup.controllers").write_text("cpu memory\n")
    assert find_memory_hierarchy(proc=proc) == Hierarchy(2, mount)


def test_a_carriage_return_in_a_mount_is_part_of_its_name(tmp_path: Path) -> None:
    """Python reads text with it as the end of a line; the kernel does not."""
    mount = tmp_path / "c\rgroup"
    mount.mkdir()
    proc = fake_proc(tmp_path / "proc", V1.format(at=mount))
    assert find_memory_hierarchy(proc=proc) == Hierarchy(1, mount)


def test_a_pod_sees_the_mounts_of_the_host(tmp_path: Path) -> None:
    """With another mount namespace the way is through pid 1's root."""
    proc = tmp_path / "proc"
    there = proc / "1/root/sys/fs/cgroup/memory"
    there.mkdir(parents=True)
    fake_proc(proc, V1.format(at="/sys/fs/cgroup/memory"), same_namespace=False)
    assert find_memory_hierarchy(proc=proc) == Hierarchy(1, there)


def test_paths_outside_are_refused() -> None:
    """A path with .. would be another cgroup than the one meant."""
    hierarchy = Hierarchy(2, Path("/cg"), "/kubepods")
    assert hierarchy.path("/kubepods/pod1/x") == Path("/cg/pod1/x")
    for path in ("/../other", "/system.slice"):
        with pytest.raises(KernelError):
            hierarchy.path(path)


def test_process_directory(tmp_path: Path) -> None:
    """By the memory controller on version 1, by the unified line on version 2."""
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "cgroup").write_text("4:memory:/m\n0::/u\n")
    assert Hierarchy(1, Path("/cg")).directory(5, proc=tmp_path) == Path("/cg/m")
    assert Hierarchy(2, Path("/cg")).directory(5, proc=tmp_path) == Path("/cg/u")


def test_least_room_of_all_levels_v1(tmp_path: Path) -> None:
    """A pod's limit counts for its container, and clean cache is room."""
    pod, container = tmp_path / "pod", tmp_path / "pod" / "container"
    container.mkdir(parents=True)
    (pod / "memory.limit_in_bytes").write_text("1000\n")
    (pod / "memory.usage_in_bytes").write_text("900\n")
    (pod / "memory.stat").write_text(
        "inactive_file 1\ntotal_inactive_file 300\ntotal_active_file 100\ntotal_dirty 50\n"
    )
    (container / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (container / "memory.usage_in_bytes").write_text("900\n")
    assert memory_headroom(Hierarchy(1, tmp_path), container) == 450
    (container / "memory.limit_in_bytes").write_text("910\n")
    assert memory_headroom(Hierarchy(1, tmp_path), container) == 10


def test_least_room_of_all_levels_v2(tmp_path: Path) -> None:
    """memory.high is as good as a limit; `max` is none; the root has no files."""
    pod = tmp_path / "pod"
    pod.mkdir()
    assert memory_headroom(Hierarchy(2, tmp_path), pod) is None
    (pod / "memory.current").write_text("500\n")
    (pod / "memory.max").write_text("max\n")
    (pod / "memory.stat").write_text("inactive_file 100\nactive_file 0\nfile_dirty 100\n")
    assert memory_headroom(Hierarchy(2, tmp_path), pod) is None
    (pod / "memory.high").write_text("400\n")
    assert memory_headroom(Hierarchy(2, tmp_path), pod) == -100


@given(st.integers(0, 1 << 50), st.integers(0, 1 << 50), st.integers(0, 1 << 50))
def test_room_never_exceeds_the_limit(limit: int, usage: int, reclaimable: int) -> None:
    """However counters lag behind each other."""
    room = level_headroom(limit, usage, reclaimable)
    assert limit - usage <= room <= limit


@given(st.text())
def test_memory_stat_never_fails(text: str) -> None:
    """Fields come and go between kernels; what can be dropped is never below zero."""
    assert reclaimable_bytes(parse_memory_stat(text)) >= 0


def test_node_room_is_what_is_available_less_the_reserve() -> None:
    """It may be negative: then nothing may be released."""
    assert node_headroom({"MemAvailable": 100}, 130) == -30


def test_walk_and_pids(tmp_path: Path) -> None:
    """Directories only; what has gone is empty, and 0 is a process that we cannot see."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "cgroup.procs").write_text("1\n0\n22\n")
    assert list(walk(tmp_path)) == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    assert pids(tmp_path) == [1, 22]
    assert pids(tmp_path / "gone") == []
