"""Who asks ksmd for merging, told by the kernel at that moment (tracepoint ksm:ksm_enter, 6.5).

It fires in the thread that called prctl, madvise, fork or execve, when ksmd puts an address space
on its list (`__ksm_enter`, mm/ksm.c). One that is on the list already, because it asked before and
ksmd has not come round since, enters no second time: whoever entered has to be looked at for as
long as it lives.

Traced in an instance of our own (Documentation/trace/ftrace.rst), so that nobody else's tracing is
disturbed. An instance outlives who made it: that of one that was killed is removed by the next.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.errors import Unsupported
from ksm_operator.kernel.tracefs import mount_tracefs

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

INSTANCE: Final = "ksm-operator"
EVENT: Final = "events/ksm/ksm_enter"
BUFFER_KIB: Final = 4
"""For each CPU; the kernel rounds up to two pages. Some 200 events."""
MOST_BYTES: Final = 1 << 16
"""Text taken in one read, so that a storm of events costs no more than this."""

_LINE: Final = re.compile(
    rb"-([0-9]+) +(?:\( *[-0-9]+\) +)?\[[0-9]+\] [^ ]+ +[0-9]+\.[0-9]+: ksm_enter: "
)
"""What follows a name, which may hold anything and has 15 bytes: too few to look like this."""
_LOST: Final = re.compile(rb"\[LOST [0-9]+ EVENTS\]")


@dataclass(frozen=True, slots=True)
class Asked:
    """What was told since the last time.

    Attributes:
        tids: threads that made a process mergeable: their own or, by a fork, their child.
        lost: whether there may have been others.
    """

    tids: AbstractSet[int]
    lost: bool


def parse_events(text: bytes) -> Asked:
    """Parse what trace_pipe gives."""
    return Asked({int(tid) for tid in _LINE.findall(text)}, bool(_LOST.search(text)))


class KsmEnterEvents:
    """Listens until it is closed.

    Args:
        instance: name of the tracing instance; one listener may have it at a time.

    Raises:
        Unsupported: this kernel does not tell; look at every process instead.
    """

    def __init__(self, instance: str = INSTANCE) -> None:
        self._mount = mount_tracefs()
        root = f"/proc/self/fd/{self._mount}"
        self._directory = f"{root}/instances/{instance}"
        self._pipe = -1
        try:
            os.stat(f"{root}/{EVENT}")  # noqa: PTH116 - below a descriptor, not a path
            self._remove()
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._directory)  # noqa: PTH102 - as above
            self._write("buffer_size_kb", str(BUFFER_KIB))
            self._write("buffer_percent", "0")  # or a reader sleeps until the buffer is half full
            self._pipe = os.open(
                f"{self._directory}/trace_pipe", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
            )
            self._write(f"{EVENT}/enable", "1")
        except OSError as error:
            self.close()
            raise Unsupported(f"ksm:ksm_enter (6.5) cannot be traced: {error}") from error

    def fileno(self) -> int:
        """Readable while there is something to read."""
        return self._pipe

    def read(self) -> Asked:
        """What there is now, up to a bound; never waits."""
        try:
            text = os.read(self._pipe, MOST_BYTES)
        except BlockingIOError:
            return Asked(frozenset(), lost=False)
        except OSError:
            return Asked(frozenset(), lost=True)
        return parse_events(text)

    def close(self) -> None:
        """Stop listening and remove the instance."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
        if self._mount >= 0:
            self._remove()
            os.close(self._mount)
            self._mount = -1

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            os.rmdir(self._directory)  # noqa: PTH106 - as above

    def _write(self, name: str, text: str) -> None:
        fd = os.open(f"{self._directory}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
