"""fanotify(7) for directories of one whole file system, by names.

One mark covers directories that do not exist yet, so nothing is missed between a mkdir and a watch.
Needs CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH; cgroup file systems can be marked since Linux 6.6.
"""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

FAN_MODIFY: Final = 0x2
FAN_CREATE: Final = 0x100
FAN_DELETE: Final = 0x200
FAN_Q_OVERFLOW: Final = 0x4000
FAN_ONDIR: Final = 0x4000_0000
FAN_CLOEXEC: Final = 0x1
FAN_NONBLOCK: Final = 0x2
FAN_REPORT_DFID_NAME: Final = 0xC00
FAN_MARK_ADD: Final = 0x1
FAN_MARK_FILESYSTEM: Final = 0x100
FAN_EVENT_INFO_TYPE_DFID_NAME: Final = 2

AT_FDCWD: Final = -100
METADATA: Final = struct.Struct("=IBBHQii")
INFO_HEADER: Final = struct.Struct("=BBH")
FSID_BYTES: Final = 8
HANDLE_HEADER: Final = struct.Struct("=Ii")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fanotify_mark.argtypes = (
    ctypes.c_int,
    ctypes.c_uint,
    ctypes.c_uint64,
    ctypes.c_int,
    ctypes.c_char_p,
)
_libc.open_by_handle_at.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int)


@dataclass(frozen=True, slots=True)
class RawEvent:
    """One event as the kernel wrote it.

    Attributes:
        mask: FAN_* bits.
        handle: struct file_handle of the directory in which it happened; empty on overflow.
        name: name of the entry.
    """

    mask: int
    handle: bytes
    name: str


def parse_events(data: bytes) -> Iterator[RawEvent]:
    """Split what one read of a fanotify descriptor gave; stops at a record it cannot read."""
    offset = 0
    while offset + METADATA.size <= len(data):
        length, _, _, metadata_length, mask, _, _ = METADATA.unpack_from(data, offset)
        if length < METADATA.size or offset + length > len(data):
            return
        handle, name = _parse_info(data[offset + metadata_length : offset + length])
        yield RawEvent(mask, handle, name)
        offset += length


def _parse_info(info: bytes) -> tuple[bytes, str]:
    offset = 0
    while offset + INFO_HEADER.size <= len(info):
        kind, _, length = INFO_HEADER.unpack_from(info, offset)
        record = info[offset + INFO_HEADER.size : offset + length]
        if kind == FAN_EVENT_INFO_TYPE_DFID_NAME and len(record) > FSID_BYTES + HANDLE_HEADER.size:
            size, _ = HANDLE_HEADER.unpack_from(record, FSID_BYTES)
            end = FSID_BYTES + HANDLE_HEADER.size + size
            name = record[end:].split(b"\0", 1)[0]
            return record[FSID_BYTES:end], os.fsdecode(name)
        if length < INFO_HEADER.size:
            break
        offset += length
    return b"", ""


def _checked(result: int, what: str) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result


def watch_filesystem(path: Path, *, writes: bool = False) -> int:
    """A descriptor that reports directories made and removed anywhere on a path's file system.

    Args:
        path: anything on it.
        writes: report files that are written to as well.

    Raises:
        OSError: this kernel, file system or caller cannot.
    """
    flags = FAN_CLOEXEC | FAN_NONBLOCK | FAN_REPORT_DFID_NAME
    fd = _checked(_libc.fanotify_init(flags, os.O_RDONLY), "fanotify_init")
    try:
        _checked(
            _libc.fanotify_mark(
                fd,
                FAN_MARK_ADD | FAN_MARK_FILESYSTEM,
                FAN_CREATE | FAN_DELETE | FAN_ONDIR | (FAN_MODIFY if writes else 0),
                AT_FDCWD,
                os.fsencode(path),
            ),
            f"fanotify_mark on {path}",
        )
    except OSError:
        os.close(fd)
        raise
    return fd


def watch_writes(paths: Iterable[Path]) -> int:
    """A descriptor that reports writes to files, with the pid of who wrote.

    Args:
        paths: the files; those that cannot be watched are left out.

    Raises:
        OSError: none of them can.
    """
    fd = _checked(_libc.fanotify_init(FAN_CLOEXEC | FAN_NONBLOCK, os.O_RDONLY), "fanotify_init")
    failures: list[OSError] = []
    watched = 0
    for path in paths:
        try:
            mark = (fd, FAN_MARK_ADD, FAN_MODIFY, AT_FDCWD, os.fsencode(path))
            _checked(_libc.fanotify_mark(*mark), f"fanotify_mark on {path}")
            watched += 1
        except OSError as error:
            failures.append(error)
    if failures and not watched:
        os.close(fd)
        raise failures[0]
    return fd


def parse_writers(data: bytes) -> Iterator[tuple[int, int]]:
    """The descriptor and the pid of each event that one read of `watch_writes` gave.

    The descriptor, of the file, is the reader's to close; negative where there is none.
    """
    offset = 0
    while offset + METADATA.size <= len(data):
        length, _, _, _, _, fd, pid = METADATA.unpack_from(data, offset)
        if length < METADATA.size:
            return
        yield fd, pid
        offset += length


def directory_of(handle: bytes, mount_fd: int) -> str:
    """Path of the directory that a handle stands for, as the kernel names it.

    Raises:
        OSError: it has gone.
    """
    fd = _checked(
        _libc.open_by_handle_at(mount_fd, handle, os.O_PATH | os.O_CLOEXEC), "open_by_handle_at"
    )
    try:
        return os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115 - not a path of ours
    finally:
        os.close(fd)


def works_on(path: Path) -> bool:
    """True if this file system can be watched here."""
    try:
        fd = watch_filesystem(path)
    except OSError:
        return False
    os.close(fd)
    return True
