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
import select
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
class Entered:
    """What was told since the last time.

    Attributes:
        tids: threads that made a process mergeable; their own, their child, or one that they became.
        lost: whether there may have been others.
    """

    tids: AbstractSet[int]
    lost: bool


def parse_events(text: bytes) -> Entered:
    """Parse what trace_pipe gives."""
    return Entered({int(tid) for tid in _LINE.findall(text)}, bool(_LOST.search(text)))


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
            if not os.path.exists(f"{root}/{EVENT}"):  # noqa: PTH110 - a descriptor, not a path
                raise Unsupported("this kernel has no tracepoint ksm:ksm_enter (6.5)")
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
            raise Unsupported(f"ksm:ksm_enter cannot be traced: {error}") from error
        except Unsupported:
            self.close()
            raise
        self._poll = select.poll()
        self._poll.register(self._pipe, select.POLLIN)

    def wait(self, seconds: float) -> bool:
        """Sleep until there is something to read, or for so long; tells which it was."""
        return bool(self._poll.poll(max(0.0, seconds) * 1000))

    def read(self) -> Entered:
        """What there is now, up to a bound; never waits."""
        try:
            text = os.read(self._pipe, MOST_BYTES)
        except BlockingIOError:
            return Entered(frozenset(), lost=False)
        except OSError:
            return Entered(frozenset(), lost=True)
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
