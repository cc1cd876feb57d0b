"""The memory cgroup hierarchy of the node: where it is, what is in it, who is in which cgroup.

Version 1 (a mount with the memory controller) and version 2 (the unified mount). An agent in a pod
sees the host's own mount through /proc/1/root when it shares the host's pid namespace.
"""

from __future__ import annotations

import ctypes
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ksm_operator.kernel.errors import KernelError, Unsupported
from ksm_operator.kernel.procfs import PROC, lines, parse_count, read_cgroup

if TYPE_CHECKING:
    from collections.abc import Iterator

CLONE_NEWCGROUP = 0x02000000
LINKS_WITHOUT_CHILDREN = 2
READ_BYTES = 1 << 16
_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class CgroupMount:
    """One line of mountinfo that mounts cgroups.

    Attributes:
        version: 1 or 2.
        root: the directory of the hierarchy that is mounted (`/` is all of it).
        mount_point: where.
        controllers: those of a version 1 mount.
    """

    version: int
    root: str
    mount_point: str
    controllers: frozenset[str]


def parse_mountinfo(text: str) -> list[CgroupMount]:
    """The cgroup mounts in /proc/PID/mountinfo, proc(5)."""
    found = []
    for line in lines(text):
        left, separator, right = line.partition(" - ")
        fields, kind = left.split(" "), right.split(" ")
        if not separator or len(fields) < 6 or len(kind) < 3:  # noqa: PLR2004 - proc(5)
            continue
        if kind[0] not in ("cgroup", "cgroup2"):
            continue
        found.append(
            CgroupMount(
                version=2 if kind[0] == "cgroup2" else 1,
                root=_unescape(fields[3]),
                mount_point=_unescape(fields[4]),
                controllers=frozenset(kind[2].split(",")),
            )
        )
    return found


def _unescape(name: str) -> str:
    """Undo the kernel's seq_escape(): a backslash and three octal digits stand for a character."""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), name)


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """The hierarchy that accounts memory.

    Attributes:
        version: 1 or 2.
        mount: its mount, as a path that this process can open.
        root: the cgroup that is found at `mount`; `/` is the whole hierarchy.
    """

    version: int
    mount: Path
    root: str = "/"

    def path(self, cgroup: str) -> Path:
        """The directory of a cgroup, given as /proc/PID/cgroup names it.

        Raises:
            KernelError: it lies outside of what is mounted, or of the reader's cgroup namespace.
        """
        pure = PurePosixPath(cgroup)
        if ".." in pure.parts:
            raise KernelError(
                f"cgroup {cgroup} is outside of this process's cgroup namespace: "
                "join the host's with join_host_cgroup_namespace()"
            )
        try:
            return self.mount / pure.relative_to(self.root)
        except ValueError as error:
            raise KernelError(
                f"cgroup {cgroup} is not below {self.root}, mounted at {self.mount}"
            ) from error

    def name(self, directory: Path) -> str:
        """The cgroup of a directory below `mount`, as /proc/PID/cgroup names it."""
        return str(PurePosixPath(self.root) / directory.relative_to(self.mount))

    def directory(self, pid: int, *, proc: Path = PROC) -> Path:
        """The directory of the cgroup whose memory this process uses.

        Raises:
            ProcessGone: there is no such process.
            KernelError: see `path`.
        """
        paths = read_cgroup(pid, proc=proc)
        key = "memory" if self.version == 1 else ""
        if key not in paths:
            raise KernelError(f"process {pid} is in no cgroup of the hierarchy at {self.mount}")
        return self.path(paths[key])


def find_memory_hierarchy(*, proc: Path = PROC) -> Hierarchy:
    """Find it in the mounts of pid 1, which is the host's init for whoever sees the host's pids.

    Raises:
        Unsupported: no mounted hierarchy accounts memory.
    """
    prefix = Path("/")
    init, self_ = proc / "1", proc / "self"
    try:
        if (init / "ns/mnt").readlink() != (self_ / "ns/mnt").readlink():
            prefix = init / "root"
        text = (init / "mountinfo").read_bytes()
    except OSError:
        prefix = Path("/")
        text = (self_ / "mountinfo").read_bytes()
    mounts = parse_mountinfo(text.decode(errors="surrogateescape"))
    whole_first = sorted(mounts, key=lambda mount: (mount.version, mount.root != "/"))
    for mount in whole_first:
        path = prefix / mount.mount_point.lstrip("/")
        if mount.version == 1 and "memory" not in mount.controllers:
            continue
        if mount.version == 2 and not _accounts_memory(path):  # noqa: PLR2004 - cgroup v2
            continue
        if path.is_dir():
            return Hierarchy(mount.version, path, mount.root)
    raise Unsupported("no cgroup hierarchy with the memory controller is mounted")


def _accounts_memory(mount: Path) -> bool:
    try:
        return b"memory" in (mount / "cgroup.controllers").read_bytes().split()
    except OSError:
        return False


def walk(directory: Path) -> Iterator[Path]:
    """This cgroup and all below it; one that vanishes meanwhile is passed over."""
    yield directory
    try:
        # Counted by the kernel (kernfs_iop_getattr); others than two say nothing on some systems.
        if os.stat(directory).st_nlink == LINKS_WITHOUT_CHILDREN:  # noqa: PTH116 - for every glance
            return
        with os.scandir(directory) as entries:
            below = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return
    for name in below:
        yield from walk(directory / name)


def pids(directory: Path) -> list[int]:
    """Processes in this very cgroup; none if it has gone or holds threads only."""
    try:
        fd = os.open(f"{directory}/cgroup.procs", os.O_RDONLY | os.O_CLOEXEC)
        try:
            chunks = []
            while chunk := os.read(fd, READ_BYTES):
                chunks.append(chunk)
        finally:
            os.close(fd)
    except OSError:
        return []
    words = b"".join(chunks).decode(errors="replace").split()
    # 0 stands for a process outside of the reader's pid namespace.
    return [pid for pid in map(parse_count, words) if pid]


def join_host_cgroup_namespace(*, proc: Path = PROC) -> None:
    """Make this thread, and threads started by it, see cgroup paths as the host's init does.

    On cgroup v2 a pod has a cgroup namespace of its own, where the paths of other pods begin with
    `/..`. Call it once, before other threads start. Nothing happens where pid 1 is no other.

    Raises:
        KernelError: not permitted (CAP_SYS_ADMIN) or no such namespace.
    """
    try:
        if (proc / "1/ns/cgroup").readlink() == (proc / "self/ns/cgroup").readlink():
            return
        fd = os.open(proc / "1/ns/cgroup", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError(f"the host's cgroup namespace cannot be opened: {error}") from error
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(fd, CLONE_NEWCGROUP) != 0:
            code = ctypes.get_errno()
            raise KernelError(f"the host's cgroup namespace cannot be joined: {os.strerror(code)}")
    finally:
        os.close(fd)
