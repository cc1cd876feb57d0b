"""Release gives pages back without a kill, stops where there is no room, and ends clean."""

import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from kernel.conftest import Cgroup, Holders, Start, Target, intact, wait_until
from ksm_operator.kernel import (
    Hierarchy,
    KernelFeatures,
    ProcessGone,
    ReleaseProgress,
    Tracer,
    enrol,
    memory_headroom,
)
from ksm_operator.kernel import release as release_process
from ksm_operator.kernel.procfs import page_size
from support import kernel

MIB = 1 << 20
Release = Callable[..., ReleaseProgress]


@pytest.fixture(params=[True, False], ids=["as_probed", "by_smaps"])
def release(request: pytest.FixtureRequest, features: KernelFeatures) -> Release:
    """As it is done on this kernel, and as where less is known of it."""
    keeps_flags = request.param and features.unmerge_keeps_flags is True
    return partial(release_process, keeps_flags=keeps_flags)


def mergeable_ranges(pid: int) -> int:
    """How many ranges of a process ksmd may merge."""
    smaps = Path(f"/proc/{pid}/smaps").read_text()
    return len(re.findall(r"^VmFlags:.* mg\b", smaps, re.MULTILINE))


def merged(target: Target) -> int:
    """Bytes of a process that are merged, by its page tables."""
    rollup = Path(f"/proc/{target.pid}/smaps_rollup").read_text()
    found = re.search(r"^KSM: +(\d+) kB", rollup, re.MULTILINE)
    assert found, "this kernel does not say (Linux 6.6)"
    return int(found[1]) * 1024


def merge(tracer: Tracer, *targets: Target, mebibytes: int) -> None:
    """Enrol these and wait until so much of each is merged."""
    for target in targets:
        enrol(target.process, tracer)
    wait_until(
        lambda: all(merged(target) >= mebibytes * MIB for target in targets),
        f"{mebibytes} MiB merged in each",
    )


def test_pages_merge_and_come_back(
    holder: Holders, ksmd: None, tracer: Tracer, release: Release
) -> None:
    """The whole way: two programs with the same memory, merged, released, unharmed."""
    one, two = holder(32), holder(32)
    merge(tracer, one, two, mebibytes=31)
    assert kernel.counter("pages_sharing") * page_size() >= 31 * MIB
    for target in (one, two):
        before = merged(target)
        progress = release(target.process, tracer, lambda: None)
        assert progress.done, progress
        # ksmd goes on meanwhile, and may have let go of some since they were counted.
        assert progress.freed_bytes >= before - MIB > 24 * MIB
        assert progress.remaining_bytes == 0
        assert not kernel.merge_any(target.pid)
        assert merged(target) == 0
        assert mergeable_ranges(target.pid) == 0
        assert intact(target)


def test_release_of_one_that_never_merged(start: Start, tracer: Tracer, release: Release) -> None:
    """Nothing merged, nothing to wait for: merging is off at once, and a second time is fine."""
    target = start("sh", "-c", "echo ready; read line")
    target.wait_for_state("S")
    enrol(target.process, tracer)
    for _ in range(2):
        assert release(target.process, tracer, lambda: 64 * MIB).done
        assert mergeable_ranges(target.pid) == 0


def test_no_headroom_touches_nothing(
    holder: Holders, ksmd: None, tracer: Tracer, release: Release
) -> None:
    """Without room every page stays merged, and the answer says how much that is."""
    one, two = holder(16), holder(16)
    merge(tracer, one, two, mebibytes=15)
    progress = release(one.process, tracer, lambda: 0)
    assert not progress.done
    assert progress.reason == "NoHeadroom"
    assert progress.remaining_bytes >= 15 * MIB
    assert kernel.merge_any(one.pid)
    assert release(one.process, tracer, lambda: 64 * MIB).done


@pytest.mark.usefixtures("ksmd")
def test_a_cgroup_without_room_is_not_killed(
    holder: Holders, cgroup: Cgroup, hierarchy: Hierarchy, tracer: Tracer, release: Release
) -> None:
    """Unmerging over a limit would kill: release stops before it, and goes on when it is raised."""
    first, second = cgroup.child("one"), cgroup.child("two")
    # The page scanned later is the one freed, so one of the two cgroups gets all of the room.
    one, two = holder(48, first), holder(48, second)
    merge(tracer, one, two, mebibytes=47)
    kernel.write_setting("run", 0)
    poorer, inside = min(((first, one), (second, two)), key=lambda pair: pair[0].usage())
    before = poorer.usage()
    assert before < 40 * MIB, "no cgroup got anything from merging"
    poorer.limit(before + 20 * MIB)

    def room() -> int | None:
        return memory_headroom(hierarchy, poorer.directory)

    progress = release(inside.process, tracer, room)
    assert not progress.done
    assert progress.reason == "NoHeadroom"
    # A page that this cgroup paid for already costs it nothing: a little more than the room.
    assert 8 * MIB < progress.freed_bytes < 24 * MIB
    assert poorer.oom_kills() == 0
    assert inside.popen.poll() is None
    poorer.limit(before + 96 * MIB)
    assert release(inside.process, tracer, room).done
    assert poorer.oom_kills() == 0
    assert intact(one)
    assert intact(two)


def test_headroom_counts_clean_cache_as_room(
    cgroup: Cgroup, hierarchy: Hierarchy, start: Start, tmp_path: Path
) -> None:
    """A cgroup full of page cache has room: the kernel drops it before it kills."""
    cgroup.limit(64 * MIB)
    procs, file = cgroup.directory / "cgroup.procs", tmp_path / "cache"
    # Written and read from inside, so that its cache is charged there.
    write = f'head -c {48 * MIB} /dev/zero > "{file}" && sync "{file}" && cat "{file}" > /dev/null'
    target = start("sh", "-c", f'echo $$ > "{procs}"; {write}; echo ready; read line')
    if cgroup.usage() < 32 * MIB:
        pytest.skip(f"{tmp_path} is on a file system whose cache is not charged (tmpfs)")
    # memory.stat lags behind by up to two seconds.
    wait_until(
        lambda: (memory_headroom(hierarchy, cgroup.directory) or 0) > 48 * MIB, "the cache as room"
    )
    assert target.popen.poll() is None


def test_sparse_reservation_is_released_in_steps(
    start: Start, tracer: Tracer, release: Release
) -> None:
    """A runtime that reserves gigabytes must not stand still while its addresses are walked."""
    target = start(
        code="""
import mmap, threading, time, sys
area = mmap.mmap(-1, 8 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
area[0] = 1
area[4 << 30] = 1
worst = 0.0
stop = False
def probe():
    global worst
    while not stop:
        begin = time.monotonic()
        mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
        worst = max(worst, time.monotonic() - begin)
        time.sleep(0.0005)
thread = threading.Thread(target=probe)
thread.start()
print("ready", flush=True)
sys.stdin.readline()
stop = True
thread.join()
print(worst, flush=True)
"""
    )
    enrol(target.process, tracer)
    assert release(target.process, tracer, lambda: 64 * MIB).done
    assert mergeable_ranges(target.pid) == 0
    target.tell("end")
    worst = float(target.line())
    print(f"longest mmap in another thread: {worst * 1e3:.1f} ms")


def test_release_under_a_program_that_goes_on_working(
    start: Start, ksmd: None, tracer: Tracer, release: Release
) -> None:
    """Memory that is mapped, unmapped and forked meanwhile ends unmergeable all the same."""
    target = start(
        code="""
import mmap, os, select, sys
areas = []
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0.002)[0]:
    area = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.write(bytes([7]) * (1 << 20))
    areas.append(area)
    if len(areas) > 32:
        areas.pop(0).close()
print(all(area[5000] == 7 for area in areas), flush=True)
"""
    )
    enrol(target.process, tracer)
    wait_until(lambda: merged(target) >= MIB, "some of it merged")
    wait_until(lambda: release(target.process, tracer, lambda: 256 * MIB).done, "released")
    time.sleep(0.1)
    assert mergeable_ranges(target.pid) == 0
    assert merged(target) == 0
    target.tell("end")
    assert target.line() == "True"


def test_process_that_exits_is_gone(holder: Holders, tracer: Tracer, release: Release) -> None:
    """Nothing to give back to the dead."""
    target = holder(1)
    enrol(target.process, tracer)
    target.kill()
    with pytest.raises(ProcessGone):
        release(target.process, tracer, lambda: None)
