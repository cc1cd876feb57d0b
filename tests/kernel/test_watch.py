"""New cgroups are noticed at every depth, by both ways of watching."""

import ctypes
import os
import queue
import select
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from kernel.conftest import Cgroup
from ksm_operator.agent.cgroups import RETRY_SECONDS, CgroupListener
from ksm_operator.agent.news import CgroupAppeared, CgroupsUncertain, News
from ksm_operator.kernel import (
    CgroupEvent,
    CgroupWatch,
    Created,
    Deleted,
    Entered,
    Hierarchy,
    Rescan,
    pids,
    walk,
)
from ksm_operator.kernel.inotify import InotifyTree

CLONE_NEWUSER = 0x10000000
LIMITS = Path("/proc/sys/user")
"""Of the user namespace that looks at them."""
QUEUED = Path("/proc/sys/fs")


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


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A directory on tmpfs, as quick as cgroups: a disk takes a minute for so many directories."""
    with TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


def overflow(directory: Path, method: str) -> None:
    """Make more directories than the kernel keeps events of; fanotify keeps one for each name."""
    most = int((QUEUED / method / "max_queued_events").read_text())
    for number in range(most + 1):
        (directory / f"{number}").mkdir()
        (directory / f"{number}").rmdir()


@pytest.mark.parametrize("method", ["fanotify", "inotify"])
def test_lost_events_ask_for_a_rescan_and_nothing_is_missed_after_it(
    method: str, in_memory: Path
) -> None:
    """A pod that was made anew under the same name while nobody read is another directory."""
    pod = in_memory / "pod"
    with CgroupWatch(in_memory, use_fanotify=method == "fanotify") as watch:
        if watch.method != method:
            pytest.skip("this file system cannot be watched by fanotify")
        pod.mkdir()
        made: set[CgroupEvent] = {Created(pod)}
        assert made <= set(drain(watch, made))
        overflow(in_memory, method)
        pod.rmdir()
        pod.mkdir()
        lost: set[CgroupEvent] = {Rescan()}
        assert lost <= set(drain(watch, lost))
        (pod / "container").mkdir()
        wanted: set[CgroupEvent] = {Created(pod / "container")}
        assert wanted <= set(drain(watch, wanted))


def test_lost_events_are_news_of_their_own(in_memory: Path) -> None:
    """The loop looks at all containers when it is told so, and otherwise within a minute."""
    news: queue.SimpleQueue[News] = queue.SimpleQueue()
    listener = CgroupListener(Hierarchy(2, in_memory), news, lambda: None)
    assert listener._watch is not None
    overflow(in_memory, listener._watch.method)
    listener.bring()
    heard = [news.get_nowait() for _ in range(news.qsize())]
    assert CgroupsUncertain() in heard


def test_the_watch_of_a_removed_cgroup_is_given_back(cgroup: Cgroup) -> None:
    """Before Linux 7.1 the kernel does not take it back, and there is a most for all of a user."""
    (cgroup.directory / "gone").mkdir()
    tree = InotifyTree(cgroup.directory)
    try:
        (cgroup.directory / "gone").rmdir()
        tree.look_anew()
        assert Path(f"/proc/self/fdinfo/{tree.fileno()}").read_text().count("inotify wd:") == 1
    finally:
        tree.close()


def in_a_user_namespace(work: Callable[[], None]) -> None:
    """Do something in a process that has limits of its own, which the machine's are not."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            assert ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER) == 0
            Path("/proc/self/uid_map").write_text("0 0 1")
            work()
            code = 0
        except BaseException:  # noqa: BLE001 - pytest's own must not go on in this process
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_without_a_watch_for_each_directory_the_others_are_watched(tmp_path: Path) -> None:
    """An agent that ended would be started again and again, with ksmd left running meanwhile."""
    tops = [tmp_path / f"{number}" for number in range(3)]
    for top in tops:
        (top / "below").mkdir(parents=True)

    def work() -> None:
        limit = LIMITS / "max_inotify_watches"
        limit.write_text("4")
        with CgroupWatch(tmp_path, use_fanotify=False) as watch:
            assert "raise fs.inotify.max_user_watches" in watch.shortage
            (tops[2] / "seen").mkdir()
            (tops[0] / "below/unseen").mkdir()
            assert watch.read() == [Created(tops[2] / "seen")]
            assert watch.retry() == []
            limit.write_text("100")
            assert watch.retry() == [Rescan()]
            assert watch.shortage == ""
            (tops[0] / "below/unseen/now").mkdir()
            assert watch.read() == [Created(tops[0] / "below/unseen/now")]

    in_a_user_namespace(work)


@pytest.mark.parametrize("limit", ["max_inotify_instances", "max_inotify_watches"])
def test_without_any_watch_the_agent_goes_on(limit: str, tmp_path: Path) -> None:
    """All containers are looked at once a minute anyway, and it is said what would help."""

    def work() -> None:
        (LIMITS / limit).write_text("0")
        news: queue.SimpleQueue[News] = queue.SimpleQueue()
        now, failures = [0.0], []
        listener = CgroupListener(
            Hierarchy(2, tmp_path), news, lambda: failures.append(1), lambda: now[0]
        )
        (tmp_path / "a").mkdir()
        listener.bring()
        now[0] += RETRY_SECONDS
        listener.bring()
        (LIMITS / limit).write_text("100")
        listener.bring()
        assert news.empty()
        assert len(failures) == 1
        now[0] += RETRY_SECONDS
        listener.bring()
        assert news.get_nowait() == CgroupsUncertain()
        (tmp_path / "b").mkdir()
        listener.bring()
        assert news.get_nowait() == CgroupAppeared("/b")

    in_a_user_namespace(work)


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
