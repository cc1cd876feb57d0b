"""Reads of what /proc tells of a process's memory, by a thread that must not hang.

The kernel makes them under a lock of that process, which it can hold for as long as it likes:
switching merging off for a reservation of 16 TiB takes four minutes. Nothing but the reader's death
ends such a wait, so for a thread that has said `must_not_hang` another one reads, and is left
behind where it does not come back; it ends when it does. All other threads read by themselves.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ksm_operator.kernel.errors import Postponed

if TYPE_CHECKING:
    from collections.abc import Callable

Answer = TypeVar("Answer")

MEMORY_BUSY: Final = "MemoryBusy"
"""Why a process is put off that holds its memory lock."""
READ_SECONDS: Final = 1.0
"""What a read may take of a process with little memory, on a machine that is busy too."""
SECONDS_PER_GIB: Final = 0.1
"""On top of that, for a file that the kernel walks all of the memory for: three times as much as
smaps takes before 6.14."""
MOST_LEFT_BEHIND: Final = 64
"""Readers that hang at the same time; with so many, no more is read until one comes back."""


class _Result:
    answer: Any = None
    error: BaseException | None = None
    cpu_seconds = 0.0


class _Reader(threading.Thread):
    def __init__(self) -> None:
        super().__init__(name="memory-reader", daemon=True)
        self.tasks: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self.results: queue.SimpleQueue[_Result] = queue.SimpleQueue()

    def run(self) -> None:
        while (task := self.tasks.get()) is not None:
            result, began = _Result(), time.thread_time()
            try:
                result.answer = task()
            except BaseException as error:  # noqa: BLE001 - raised again by who waits for it
                result.error = error
            result.cpu_seconds = time.thread_time() - began
            self.results.put(result)


class BoundedReads:
    """Reads that are waited for only so long.

    Args:
        seconds: how long at least; the larger the process, the longer, and the more of them hang
            already, the shorter: a thread that looks at one after the other gets to the end.
    """

    def __init__(self, seconds: float = READ_SECONDS) -> None:
        self._seconds = seconds
        self._idle: list[_Reader] = []
        self._hanging: dict[int, _Reader] = {}
        self._changing = threading.Lock()

    def make(self, pid: int, read: Callable[[], Answer]) -> Answer:
        """Return what a read gives; it is not tried while the last one of this process hangs.

        Raises:
            Postponed: the process holds its memory lock.
        """
        reader = self._reader(pid)
        reader.tasks.put(read)
        result = self._result(pid, reader)
        with self._changing:
            self._idle.append(reader)
        _here.others = _others() + result.cpu_seconds
        if result.error is not None:
            raise result.error
        answer: Answer = result.answer
        return answer

    def _reader(self, pid: int) -> _Reader:
        with self._changing:
            self._hanging = {one: who for one, who in self._hanging.items() if who.is_alive()}
            if pid in self._hanging or len(self._hanging) >= MOST_LEFT_BEHIND:
                raise _busy(pid)
            if self._idle:
                return self._idle.pop()
        reader = _Reader()
        reader.start()
        return reader

    def _result(self, pid: int, reader: _Reader) -> _Result:
        try:
            return reader.results.get(timeout=self._seconds / (1 + len(self._hanging)))
        except queue.Empty:
            pass
        try:
            return reader.results.get(timeout=SECONDS_PER_GIB * _resident_bytes(pid) / (1 << 30))
        except queue.Empty:
            reader.tasks.put(None)
            with self._changing:
                self._hanging[pid] = reader
            raise _busy(pid) from None


def _busy(pid: int) -> Postponed:
    return Postponed(pid, MEMORY_BUSY, "it holds its memory lock")


def _resident_bytes(pid: int) -> int:
    """What is told without the lock."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_bytes().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


_reads: Final = BoundedReads()
_here: Final = threading.local()


def must_not_hang() -> None:
    """Have the reads of the calling thread made by another one from now on."""
    _here.must_not_hang = True


def cpu_seconds() -> float:
    """CPU time of the calling thread, with what others have spent on reads for it."""
    return time.thread_time() + _others()


def _others() -> float:
    spent: float = getattr(_here, "others", 0.0)
    return spent


def under_memory_lock(pid: int, read: Callable[[], Answer]) -> Answer:
    """Make a read that waits for the memory lock of a process.

    Raises:
        Postponed: the process holds it, and this thread must not hang.
        KernelError: what the read raises.
    """
    return _reads.make(pid, read) if hasattr(_here, "must_not_hang") else read()
