"""What is mounted below our own folders, and taking it away again."""

import ctypes
import os
import re
from pathlib import Path

MNT_DETACH = 2
"""linux/fs.h: take the mount out of the tree now, free it when its last user is gone."""


def parse(mountinfo: str) -> list[Path]:
    """The mount points of /proc/PID/mountinfo, in the order they were mounted."""
    return [Path(_unescape(line.split()[4])) for line in mountinfo.splitlines()]


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def below(*folders: Path) -> list[Path]:
    """The mount points at or below the folders, in the order they were mounted."""
    points = parse(Path("/proc/self/mountinfo").read_text())
    return [point for point in points if any(point.is_relative_to(one) for one in folders)]


def unmount_below(*folders: Path) -> None:
    """Unmount everything at or below the folders, the last mounted first.

    Raises:
        OSError: The kernel refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for point in reversed(below(*folders)):
        if libc.umount2(os.fsencode(point), MNT_DETACH) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(point))
