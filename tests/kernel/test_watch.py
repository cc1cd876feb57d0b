"""New cgroups are noticed at every depth, by both ways of watching."""

import os
import select
import subprocess
import time
from pathlib import Path

import pytest

from kernel.conftest import Cgroup
from ksm_operator.kernel import CgroupWatch, Created, Deleted, Entered, Hierarchy, pids, walk
from ksm_operator.kernel.watch import CgroupEvent


def drain(watch: CgroupWatch, wanted: set[CgroupEvent]) -> list[CgroupEvent]:
    """Events until all of these came."""
    seen: list[CgroupEvent] = []
    deadline = time.monotonic() + 10
    while not wanted <= set(seen) and time.monotonic() < deadline:
        select.select([watch], [], [], 0.1)
        seen.extend(watch.read())
    return seen


@pytest.mark.parametrize("method", ["fanotify", "inotify"])
def test_nested_directories_are_seen(method: str, cgroup: Cgroup, hierarchy: Hierarchy) -> None:
    """A runtime makes several levels at once; none may be missed."""
    with CgroupWatch(hierarchy.mount, use_fanotify=method == "fanotify") as watch:
        if watch.method != method:
            pytest.skip("this kernel has no fanotify on cgroups (Linux 6.6)")
        made = [cgroup.directory / name for name in ("a", "a/b", "a/b/c", "d")]
        for directory in made:
            directory.mkdir()
        wanted: set[CgroupEvent] = {Created(directory) for directory in made}
        assert wanted <= set(drain(watch, wanted))
        made[2].rmdir()
        gone: set[CgroupEvent] = {Deleted(made[2])}
        assert gone <= set(drain(watch, gone))


@pytest.mark.parametrize("method", ["fanotify", "inotify"])
def test_many_at_once(method: str, cgroup: Cgroup, hierarchy: Hierarchy) -> None:
    """A burst of pods is seen whole, or a rescan is asked for."""
    with CgroupWatch(hierarchy.mount, use_fanotify=method == "fanotify") as watch:
        pods = [cgroup.directory / f"pod{number}" / "container" for number in range(100)]
        for pod in pods:
            pod.mkdir(parents=True)
        wanted: set[CgroupEvent] = {Created(pod) for pod in pods}
        assert wanted <= set(drain(watch, wanted))


def test_who_enters_is_told(cgroup: Cgroup, hierarchy: Hierarchy) -> None:
    """A process of `kubectl exec` joins a container that nobody expects to change any more."""
    with CgroupWatch(hierarchy.mount, entries=True) as watch:
        if watch.method != "fanotify" or hierarchy.version != 1:
            pytest.skip("only fanotify on cgroup version 1 tells")
        with subprocess.Popen(["sleep", "60"]) as process:
            try:
                cgroup.add(process.pid)
                wanted: set[CgroupEvent] = {Entered(cgroup.directory)}
                assert wanted <= set(drain(watch, wanted))
            finally:
                process.kill()


def test_watch_through_the_root_of_another_process(cgroup: Cgroup, hierarchy: Hierarchy) -> None:
    """An agent in a pod sees the host's cgroups by /proc/1/root: paths must come out as given."""
    with subprocess.Popen(["unshare", "--mount", "sleep", "60"]) as other:
        try:
            root = Path(f"/proc/{other.pid}/root")
            deadline = time.monotonic() + 10
            mine = Path("/proc/self/ns/mnt").readlink()
            while Path(f"/proc/{other.pid}/ns/mnt").readlink() == mine:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            mount = root / hierarchy.mount.relative_to("/")
            with CgroupWatch(mount) as watch:
                (cgroup.directory / "seen").mkdir()
                expected = root / (cgroup.directory / "seen").relative_to("/")
                wanted: set[CgroupEvent] = {Created(expected)}
                assert wanted <= set(drain(watch, wanted))
        finally:
            other.kill()


def test_walk_and_pids(cgroup: Cgroup) -> None:
    """Who is in a cgroup, and what is below it."""
    below = cgroup.child("below")
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            below.add(process.pid)
            assert list(walk(cgroup.directory)) == [cgroup.directory, below.directory]
            assert pids(below.directory) == [process.pid]
            assert pids(cgroup.directory) == []
        finally:
            process.kill()
    assert os.getpid() not in pids(below.directory)
