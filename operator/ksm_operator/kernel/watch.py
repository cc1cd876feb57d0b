"""Noticing cgroups as they are made and removed: fanotify where it works, inotify elsewhere."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from ksm_operator.kernel import fanotify
from ksm_operator.kernel.inotify import InotifyTree

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType
    from typing import Self

READ_BYTES: Final = 65536
MEMBERS: Final = "cgroup.procs"


@dataclass(frozen=True, slots=True)
class Created:
    """A directory was made.

    Attributes:
        path: absolute, below the mount that is watched. It may be gone again already.
    """

    path: Path


@dataclass(frozen=True, slots=True)
class Deleted:
    """A directory was removed.

    Attributes:
        path: absolute, below the mount that is watched.
    """

    path: Path


@dataclass(frozen=True, slots=True)
class Entered:
    """A process was moved into a cgroup, as a runtime does for one more process of a container.

    Attributes:
        path: the cgroup's directory, absolute, below the mount that is watched.
    """

    path: Path


@dataclass(frozen=True, slots=True)
class Rescan:
    """Events were lost; everything has to be looked at again."""


CgroupEvent = Created | Deleted | Entered | Rescan


class _Source(Protocol):
    @property
    def shortage(self) -> str: ...

    def look_anew(self) -> None: ...

    def fileno(self) -> int: ...

    def read(self) -> list[CgroupEvent]: ...

    def close(self) -> None: ...


class FanotifySource:
    """One mark on the whole file system."""

    shortage = ""

    def __init__(self, mount: Path, *, entries: bool) -> None:
        """Start watching.

        Raises:
            OSError: not possible here.
        """
        self._mount = mount
        self._fd = fanotify.watch_filesystem(mount, writes=entries)
        self._mount_fd = os.open(mount, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        # The kernel's name of the mount is another one when it was reached through /proc/1/root.
        self._kernel_name = f"/proc/self/fd/{self._mount_fd}"

    def fileno(self) -> int:
        """Readable when there are events."""
        return self._fd

    def read(self) -> list[CgroupEvent]:
        """Events so far, without waiting."""
        events: list[CgroupEvent] = []
        base = os.readlink(self._kernel_name)  # noqa: PTH115 - not a path of ours
        while True:
            try:
                data = os.read(self._fd, READ_BYTES)
            except BlockingIOError:
                return events
            for raw in fanotify.parse_events(data):
                events.extend(self._translate(raw, base))

    def _translate(self, raw: fanotify.RawEvent, base: str) -> list[CgroupEvent]:
        if raw.mask & fanotify.FAN_Q_OVERFLOW:
            return [Rescan()]
        entered = raw.name == MEMBERS and raw.mask & fanotify.FAN_MODIFY
        if not entered and (not raw.mask & fanotify.FAN_ONDIR or not raw.name):
            return []
        try:
            directory = fanotify.directory_of(raw.handle, self._mount_fd)
        except OSError:
            return []  # the directory around it has been removed, which is reported by its parent
        if directory != base and not directory.startswith(base.rstrip("/") + "/"):
            return []
        parent = self._mount / os.path.relpath(directory, base)
        if entered:
            return [Entered(parent)]
        path = parent / raw.name
        found: list[CgroupEvent] = []
        # One record may say both: made and removed again under the same name, in either order.
        if raw.mask & fanotify.FAN_DELETE:
            found.append(Deleted(path))
        if raw.mask & fanotify.FAN_CREATE and (not raw.mask & fanotify.FAN_DELETE or path.exists()):
            found.append(Created(path))
        return found

    def look_anew(self) -> None:
        """Nothing is ever left out."""

    def close(self) -> None:
        """Stop watching."""
        os.close(self._fd)
        os.close(self._mount_fd)


class InotifySource:
    """A watch on every directory, for kernels and callers without fanotify here."""

    def __init__(self, mount: Path) -> None:
        """Start watching.

        Raises:
            OSError: no instance is left (fs.inotify.max_user_instances).
        """
        self._tree = InotifyTree(mount)

    @property
    def shortage(self) -> str:
        """As of `InotifyTree`."""
        return self._tree.shortage

    def look_anew(self) -> None:
        """As of `InotifyTree`."""
        self._tree.look_anew()

    def fileno(self) -> int:
        """Readable when there are events."""
        return self._tree.fileno()

    def read(self) -> list[CgroupEvent]:
        """Events so far, without waiting."""
        changes = self._tree.read()
        if changes is None:
            return [Rescan()]
        return [Created(path) if made else Deleted(path) for made, path in changes]

    def close(self) -> None:
        """Stop watching."""
        self._tree.close()


class CgroupWatch:
    """Watches one mounted cgroup hierarchy.

    List the hierarchy after this was made, not before: then nothing is missed.

    Attributes:
        method: `fanotify` or `inotify`.
    """

    def __init__(self, mount: Path, *, use_fanotify: bool = True, entries: bool = False) -> None:
        """Start watching.

        Args:
            mount: where the hierarchy is mounted, as this process can open it.
            use_fanotify: False for the fallback alone.
            entries: tell who enters a cgroup, too. With fanotify on version 1 only: on version 2 a
                process can be made inside a cgroup, and the kernel's own notices are many.

        Raises:
            OSError: neither way works; the error is that of inotify.
        """
        source: _Source | None = None
        if use_fanotify:
            with contextlib.suppress(OSError):
                source = FanotifySource(mount, entries=entries)
        self.method = "inotify" if source is None else "fanotify"
        self._source: _Source = source or InotifySource(mount)

    @property
    def shortage(self) -> str:
        """Why some directories are not watched, and what would help; empty where all are.

        Those are listed once, as they are found; what comes and goes in them is not told.
        """
        return self._source.shortage

    def retry(self) -> list[CgroupEvent]:
        """Try to watch what could not be watched; what happened in it before was not told."""
        if not self.shortage:
            return []
        self._source.look_anew()
        return [] if self.shortage else [Rescan()]

    def fileno(self) -> int:
        """For select(): readable when there are events."""
        return self._source.fileno()

    def read(self) -> list[CgroupEvent]:
        """Events since the last read, without waiting."""
        return self._source.read()

    def close(self) -> None:
        """Stop watching."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
