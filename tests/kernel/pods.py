"""Two containers with the same memory, merged, and one pays; and whether anybody was killed."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kernel.conftest import Cgroup, Holders, Target, wait_until
from kernel.test_release import merge
from ksm_operator.kernel import Hierarchy, Tracer, walk
from ksm_operator.kernel.headroom import path_up
from support import kernel

MIB = 1 << 20
SIZE = 24
LIMIT = 32


class Pods:
    """The one that pays, and the one that shares."""

    def __init__(self, members: list[tuple[Cgroup, Target]]) -> None:
        members.sort(key=lambda one: -one[0].usage())
        (self.payer, self.paying), (self.sharer, self.sharing) = members
        assert self.payer.usage() - self.sharer.usage() > SIZE * MIB * 3 // 4, "nobody pays alone"

    def limit(self, mebibytes: int) -> None:
        """Give both as much as they would use without merging, and a little."""
        self.payer.limit(mebibytes * MIB)
        self.sharer.limit(mebibytes * MIB)


def oom_kills(hierarchy: Hierarchy, *cgroups: Cgroup) -> int:
    """Kills counted by these cgroups and every one above and below them.

    Version 1 counts a kill where the victim lived, whose limit ever it was for.
    """
    name = "memory.oom_control" if hierarchy.version == 1 else "memory.events"
    levels = {
        level
        for cgroup in cgroups
        for level in (*path_up(hierarchy, cgroup.directory), *walk(cgroup.directory))
    }
    total = 0
    for level in levels:
        file = level / name
        words = file.read_text().split() if file.exists() else []
        total += int(words[words.index("oom_kill") + 1]) if "oom_kill" in words else 0
    return total


def kill_log(hierarchy: Hierarchy, cgroup: Cgroup) -> list[str]:
    """What the kernel's log says of kills for the limit of this cgroup, or in it."""
    name = hierarchy.name(cgroup.directory)
    fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    found: list[str] = []
    try:
        while True:
            try:
                record = os.read(fd, 1 << 13).decode(errors="replace")
            except BlockingIOError:
                return found
            except BrokenPipeError:
                continue  # overwritten before it was read
            if "oom-kill:" in record and f"memcg={name}" in record:
                found.append(record)
    finally:
        os.close(fd)


@contextmanager
def no_kill(hierarchy: Hierarchy, *cgroups: Cgroup) -> Iterator[None]:
    """What follows kills nobody, by every counter up to the root and by the kernel's log."""
    before = oom_kills(hierarchy, *cgroups)
    log = [kill_log(hierarchy, cgroup) for cgroup in cgroups]
    yield
    assert oom_kills(hierarchy, *cgroups) == before
    assert [kill_log(hierarchy, cgroup) for cgroup in cgroups] == log


@contextmanager
def kill(hierarchy: Hierarchy, *cgroups: Cgroup) -> Iterator[None]:
    """What follows kills somebody, and both the counters and the log of the kernel say so."""
    before = oom_kills(hierarchy, *cgroups)
    log = [kill_log(hierarchy, cgroup) for cgroup in cgroups]
    yield
    wait_until(lambda: oom_kills(hierarchy, *cgroups) > before, "a kill is counted")
    wait_until(
        lambda: [kill_log(hierarchy, cgroup) for cgroup in cgroups] != log, "a kill is logged"
    )


def merged_pods(holder: Holders, tracer: Tracer, *cgroups: Cgroup) -> Pods:
    """In these two cgroups, with ksmd at rest, so that nothing merges again behind a test."""
    members = [(below, holder(SIZE, below, "small")) for below in cgroups]
    merge(tracer, *(target for _, target in members), mebibytes=SIZE - 1)
    kernel.write_setting("run", 0)
    return Pods(members)


def fill_with_cache(cgroup: Cgroup, file: Path, mebibytes: int) -> None:
    """Read a file of this size from inside, so that the cgroup is at that limit."""
    procs = cgroup.directory / "cgroup.procs"
    script = f'echo $$ > "{procs}"; head -c {mebibytes * MIB} /dev/zero > "{file}"; sync "{file}"; '
    subprocess.run(["sh", "-c", script + f'cat "{file}" "{file}" > /dev/null'], check=True)
    if cgroup.usage() < (mebibytes - 8) * MIB:
        pytest.skip(f"{file.parent} is on a file system whose cache is not charged (tmpfs)")
