"""A tree of inotify(7) watches on directories that come and go.

Kernels before 7.1 send nothing to the watch of a removed cgroup directory, so a watch is dropped
when the directory above reports the removal.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

IN_MOVED_FROM: Final = 0x40
IN_MOVED_TO: Final = 0x80
IN_CREATE: Final = 0x100
IN_DELETE: Final = 0x200
IN_Q_OVERFLOW: Final = 0x4000
IN_IGNORED: Final = 0x8000
IN_ONLYDIR: Final = 0x0100_0000
IN_ISDIR: Final = 0x4000_0000

EVENT: Final = struct.Struct("=iIII")
LIMITS: Final = {
    errno.EMFILE: "raise fs.inotify.max_user_instances",
    errno.ENOSPC: "raise fs.inotify.max_user_watches",
}

_libc = ctypes.CDLL(None, use_errno=True)


def parse_events(data: bytes) -> list[tuple[int, int, str]]:
    """(watch, mask, name) of every record in one read."""
    events = []
    offset = 0
    while offset + EVENT.size <= len(data):
        watch, mask, _, length = EVENT.unpack_from(data, offset)
        name = data[offset + EVENT.size : offset + EVENT.size + length].split(b"\0", 1)[0]
        events.append((watch, mask, os.fsdecode(name)))
        offset += EVENT.size + length
    return events


def _words(call: str, error: int) -> str:
    """What failed, why, and what would help."""
    return ": ".join([call, os.strerror(error), *([LIMITS[error]] if error in LIMITS else [])])


class InotifyTree:
    """Reports directories made and removed below a root.

    Attributes:
        shortage: why some directories are not watched, and what would help; empty where all are.
    """

    def __init__(self, root: Path) -> None:
        """Watch the root and all that is below it now.

        Raises:
            OSError: no inotify instance is left.
        """
        self.shortage = ""
        self._root = root
        self._fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            error = ctypes.get_errno()
            raise OSError(error, _words("inotify_init1", error))
        self._paths: dict[int, Path] = {}
        self._watches: dict[Path, int] = {}
        self.look_anew()

    def fileno(self) -> int:
        """Readable when there are events."""
        return int(self._fd)

    def read(self) -> list[tuple[bool, Path]] | None:
        """(made, path) in order, without waiting; None when events were lost.

        One that was made while its parent was being looked at may be told twice.
        """
        events: list[tuple[int, int, str]] = []
        while True:
            try:
                events.extend(parse_events(os.read(self._fd, 65536)))
            except BlockingIOError:
                break
        if any(mask & IN_Q_OVERFLOW for _, mask, _ in events):
            self.look_anew()
            return None
        changes: list[tuple[bool, Path]] = []
        for watch, mask, name in events:
            self._apply(watch, mask, name, changes)
        return changes

    def look_anew(self) -> None:
        """Watch what is there now and nothing else, whatever was reported of it."""
        before = set(self._paths)
        self._paths, self._watches, self.shortage = {}, {}, ""
        # A directory that is watched keeps its watch: the kernel gives the same number again.
        self._add_tree(self._root)
        for watch in before - set(self._paths):
            _libc.inotify_rm_watch(self._fd, watch)

    def _apply(self, watch: int, mask: int, name: str, changes: list[tuple[bool, Path]]) -> None:
        parent = self._paths.get(watch)
        if parent is None or not mask & IN_ISDIR:
            return
        path = parent / name
        if mask & (IN_CREATE | IN_MOVED_TO):
            # What was made below it before the watch was there has no event of its own.
            changes.append((True, path))
            changes.extend((True, found) for found in self._add_tree(path) if found != path)
        elif mask & (IN_DELETE | IN_MOVED_FROM):
            self._drop_tree(path)
            changes.append((False, path))

    def _add_tree(self, top: Path) -> list[Path]:
        """Watch a directory, then list it, then the same below; returns what was not watched.

        Level by level: where watches are few, pods and containers are worth more than what is in
        them. What cannot be watched is listed all the same.
        """
        added: list[Path] = []
        waiting = deque([top])
        while waiting:
            path = waiting.popleft()
            if path not in self._watches:
                if not self._add(path):
                    continue
                added.append(path)
            try:
                with os.scandir(path) as entries:
                    below = [one.name for one in entries if one.is_dir(follow_symlinks=False)]
            except OSError:
                continue
            waiting.extend(path / name for name in below)
        return added

    def _add(self, path: Path) -> bool:
        """Watch one directory if a watch is left; False if the directory has gone."""
        flags = IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ONLYDIR
        watch = _libc.inotify_add_watch(self._fd, os.fsencode(path), ctypes.c_uint32(flags))
        if watch >= 0:
            self._watches[path] = watch
            self._paths[watch] = path
            return True
        error = ctypes.get_errno()
        if error in (errno.ENOENT, errno.ENOTDIR):
            return False
        self.shortage = _words("inotify_add_watch", error)
        return True

    def _drop_tree(self, path: Path) -> None:
        for known in [known for known in self._watches if known.is_relative_to(path)]:
            watch = self._watches.pop(known)
            self._paths.pop(watch, None)
            _libc.inotify_rm_watch(self._fd, watch)

    def close(self) -> None:
        """Stop watching."""
        os.close(self._fd)
