"""Who else writes to a file: fanotify(7) tells the writer's process.

A file's value does not tell that somebody wrote to it what it held already, such as a 0 to `run`
at a moment at which it was 0 anyway.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel import fanotify

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

READ_BYTES: Final = 1 << 14


class OtherWriters:
    """Notices writes by other processes, where the kernel and the caller's rights allow it.

    Args:
        paths: of one file; it has an inode in each mount of sysfs for another network namespace.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._fd = -1
        with contextlib.suppress(OSError):
            self._fd = fanotify.watch_writes(paths)

    def wrote(self) -> bool:
        """Tell whether another process wrote since this was asked last."""
        found = False
        while self._fd >= 0:
            try:
                events = os.read(self._fd, READ_BYTES)
            except BlockingIOError:
                break
            for fd, pid in fanotify.parse_writers(events):
                if fd >= 0:
                    os.close(fd)
                found |= pid != os.getpid()
        return found

    def close(self) -> None:
        """Notice no more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
