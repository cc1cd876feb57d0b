"""The cluster's own subtree in every cgroup hierarchy of the machine; nothing else is touched."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from local_cluster import layout
from local_cluster.errors import LocalClusterError


@dataclass(frozen=True)
class Hierarchy:
    """One mounted cgroup hierarchy.

    Attributes:
        root: Where it is mounted.
        unified: Whether it is cgroup v2.
    """

    root: Path
    unified: bool

    @property
    def ours(self) -> Path:
        """Our subtree in it."""
        return self.root / layout.NAME


def parse_mounts(mountinfo: str) -> list[Hierarchy]:
    """The cgroup hierarchies of /proc/PID/mountinfo that are mounted from their root."""
    found: dict[Path, Hierarchy] = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()[0]
        if kind in ("cgroup", "cgroup2") and fields[3] == "/":
            root = Path(fields[4])
            found[root] = Hierarchy(root, kind == "cgroup2")
    return list(found.values())


def hierarchies() -> list[Hierarchy]:
    """The hierarchies of this machine.

    Raises:
        LocalClusterError: None is mounted.
    """
    found = parse_mounts(Path("/proc/self/mountinfo").read_text())
    if not found:
        raise LocalClusterError(
            "No cgroup hierarchy is mounted, so no container can run."
            " On a bare machine: mount -t cgroup2 cgroup2 /sys/fs/cgroup"
        )
    return found


def is_v2_only(found: list[Hierarchy]) -> bool:
    """Whether the machine has the unified hierarchy alone."""
    return all(hierarchy.unified for hierarchy in found)


def create() -> None:
    """Make our subtree everywhere; what is already there stays."""
    found = hierarchies()
    unified = is_v2_only(found)
    for hierarchy in found:
        system = hierarchy.ours / "system"
        system.mkdir(parents=True, exist_ok=True)
        if unified:
            _delegate(hierarchy.root)
            _delegate(hierarchy.ours)
        for folder in (hierarchy.ours, system):
            _inherit_cpuset(folder)


def _delegate(folder: Path) -> None:
    for controller in (folder / "cgroup.controllers").read_text().split():
        try:
            (folder / "cgroup.subtree_control").write_text(f"+{controller}")
        except OSError:
            # A controller that this machine cannot hand down; the kubelet names the ones it needs.
            continue


def _inherit_cpuset(folder: Path) -> None:
    """A v1 cpuset without processors and memory nodes accepts no process."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        file = folder / name
        is_v1 = (folder / "cgroup.clone_children").exists()
        if is_v1 and file.exists() and not file.read_text().strip():
            file.write_text((folder.parent / name).read_text())


def entrances() -> list[Path]:
    """The files a process writes itself into to belong to the cluster."""
    return [hierarchy.ours / "system" / "cgroup.procs" for hierarchy in hierarchies()]


def _tree(top: Path) -> Iterator[Path]:
    """`top` and all below it, deepest first."""
    for folder, _, _ in os.walk(top, topdown=False):
        yield Path(folder)


def members(below: str = "") -> set[int]:
    """The processes in our subtree (or the part `below`), in any hierarchy."""
    found: set[int] = set()
    for hierarchy in hierarchies():
        for folder in _tree(hierarchy.ours / below):
            try:
                found.update(int(word) for word in (folder / "cgroup.procs").read_text().split())
            except OSError:
                continue
    return found - {os.getpid()}


def remove(timeout: float = 10.0) -> list[Path]:
    """Remove our subtree everywhere.

    Args:
        timeout: Seconds to wait for the kernel to let go of processes that ended.

    Returns:
        What could not be removed because something still lives in it.
    """
    deadline = time.monotonic() + timeout
    while True:
        left: list[Path] = []
        for hierarchy in hierarchies():
            for folder in _tree(hierarchy.ours):
                try:
                    folder.rmdir()
                except OSError:
                    left.append(folder)
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.1)
