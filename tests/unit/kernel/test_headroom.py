"""Room and events of every level, from files of either version."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.kernel import Hierarchy, Level, MemoryEvents, Rooms, node_headroom, tightest
from ksm_operator.kernel.headroom import (
    EVICTION_BYTES,
    NODE,
    cgroup_levels,
    kubelet_available,
    largest_within,
    read_events,
    within,
)

MIB = 1 << 20


def write(directory: Path, **files: object) -> Path:
    """Make a cgroup; `_` in a name stands for the first dot of a file's name."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("_", ".", 1)).write_text(f"{text}\n")
    return directory


def test_the_tightest_level_is_named(tmp_path: Path) -> None:
    """A person raises the limit that lacks, so its cgroup is named as /proc/PID/cgroup has it."""
    write(tmp_path / "pod", memory_limit_in_bytes=100, memory_usage_in_bytes=90)
    container = write(tmp_path / "pod/c", memory_limit_in_bytes=100, memory_usage_in_bytes=50)
    levels = cgroup_levels(Hierarchy(1, tmp_path, "/kubepods"), container)
    assert levels == [
        Level("/kubepods/pod/c", 50, 50, (100, None)),
        Level("/kubepods/pod", 10, 90, (100, None)),
        Level("/kubepods", None, None, (None, None)),
    ]
    assert tightest(levels) == levels[1]
    assert tightest([Level("/", None)]) is None
    assert cgroup_levels(Hierarchy(1, tmp_path, "/kubepods"), container, most=2) == levels[:2]


def test_swap_limit_of_version_1(tmp_path: Path) -> None:
    """Memory and swap together may have less room than memory alone."""
    cgroup = write(tmp_path / "c", memory_limit_in_bytes=100, memory_usage_in_bytes=20)
    (cgroup / "memory.memsw.limit_in_bytes").write_text("100\n")
    (cgroup / "memory.memsw.usage_in_bytes").write_text("70\n")
    level = cgroup_levels(Hierarchy(1, tmp_path), cgroup)[0]
    assert (level.room, level.usage, level.limits) == (30, 20, (100, 100))


@given(
    st.lists(st.builds(Level, st.text(max_size=3), st.none() | st.integers(-(1 << 50), 1 << 50)))
)
def test_no_level_has_less_room_than_the_tightest(levels: list[Level]) -> None:
    """Whatever is unlimited, nothing is tighter."""
    found = tightest(levels)
    rooms = [level.room for level in levels if level.room is not None]
    assert (found is None) == (not rooms)
    assert found is None or found.room == min(rooms)


def test_events_of_version_1(tmp_path: Path) -> None:
    """Limits reached and kills, of all levels."""
    write(tmp_path, memory_failcnt=1, memory_oom_control="oom_kill_disable 0\nunder_oom 0")
    cgroup = write(tmp_path / "c", memory_failcnt=4, memory_oom_control="under_oom 0\noom_kill 2")
    events = read_events(Hierarchy(1, tmp_path), cgroup)
    assert events == MemoryEvents(limited=5, oom_kill=2)


def test_events_of_version_2(tmp_path: Path) -> None:
    """Those of other cgroups below the same parent do not count; old kernels have no such file."""
    write(tmp_path / "pods", memory_events="low 0\nhigh 9\nmax 9\noom 9\noom_kill 9")
    (tmp_path / "pods/memory.events.local").write_text("low 0\nhigh 1\nmax 2\noom 0\noom_kill 0\n")
    cgroup = write(tmp_path / "pods/c", memory_events="low 0\nhigh 0\nmax 1\noom 1\noom_kill 1")
    assert read_events(Hierarchy(2, tmp_path), cgroup) == MemoryEvents(1, 3, 1, 1)


@pytest.mark.parametrize(
    ("after", "tight", "short"),
    [
        (MemoryEvents(), False, False),
        (MemoryEvents(throttled=1), True, False),
        (MemoryEvents(limited=1), True, False),
        (MemoryEvents(oom=1), False, True),
        (MemoryEvents(oom_kill=1), False, True),
    ],
)
def test_what_a_rise_means(after: MemoryEvents, tight: bool, short: bool) -> None:  # noqa: FBT001 - a table
    """A limit reached asks for patience, an OOM for an end."""
    assert after.is_tight_since(MemoryEvents()) == tight
    assert after.is_short_since(MemoryEvents()) == short


def test_the_kubelets_view_of_the_node() -> None:
    """It counts active file cache as used and evicts, where the kernel would only drop it."""
    meminfo = {
        "MemTotal": 1000 * MIB,
        "MemAvailable": 800 * MIB,
        "AnonPages": 100 * MIB,
        "Cached": 600 * MIB,
        "Buffers": 50 * MIB,
        "Inactive(file)": 250 * MIB,
    }
    assert kubelet_available(meminfo) == 500 * MIB
    assert node_headroom(meminfo, 0) == 500 * MIB - EVICTION_BYTES
    assert node_headroom(meminfo, 500 * MIB) == 300 * MIB


def test_the_node_is_the_last_level(tmp_path: Path) -> None:
    """With the reserve as a share of its memory."""
    (tmp_path / "meminfo").write_text(
        "MemTotal: 1000000 kB\nMemAvailable: 500000 kB\nAnonPages: 1 kB\n"
    )
    cgroup = write(tmp_path / "cg/c", memory_max="max", memory_current=5)
    rooms = Rooms(Hierarchy(2, tmp_path / "cg"), 0.1, proc=tmp_path)
    assert [level.name for level in rooms.levels(cgroup)] == ["/c", "/", NODE]
    assert rooms.levels(cgroup)[-1].room == 400_000 * 1024


@given(st.integers(0, 1 << 40), st.none() | st.integers(-(1 << 40), 1 << 40), st.integers(0, 1000))
def test_what_may_be_used_leaves_a_margin(need: int, room: int | None, margin: int) -> None:
    """What costs nothing is always possible; everything else asks for more than it needs."""
    if need == 0 or room is None:
        assert within(need, room, margin)
    else:
        assert within(need, room, margin) == (need + min(need, margin) <= room)
        assert not margin or not within(need, min(room, need), margin)


@given(st.integers(-1000, 3000), st.integers(0, 1000))
def test_the_largest_that_fits(room: int, margin: int) -> None:
    """It does, and a byte more does not."""
    largest = largest_within(room, margin)
    assert largest < 1 or within(largest, room, margin)
    assert not within(max(1, largest + 1), room, margin)
