"""Finds enrolled processes that have come to live in huge pages since they were enrolled.

A container is enrolled before it has any memory, so whether sharing pays for its huge pages can
only be asked when it has some, and soon, since ksmd splits them at its second scan. Looked for in a
thread of its own, at a bounded rate, and only while the node allocates huge pages at all.
"""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING, Final

from ksm_operator.agent.looks import Look, anonymous_bytes, is_due
from ksm_operator.kernel import KernelError, read_status, read_vmstat
from ksm_operator.kernel.huge_pages import read_huge_pages
from ksm_operator.kernel.memory_lock import cpu_seconds, must_not_hang

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from ksm_operator.kernel import Process

LEAST_SECONDS: Final = 1.0
MOST_CPU_SHARE: Final = 0.005
"""Of one core: a pass over 2,500 processes takes 0.06 s of CPU and is not repeated for 12 s."""
COUNTERS: Final = ("thp_fault_alloc", "thp_collapse_alloc")
"""Of /proc/vmstat: huge pages that were allocated since boot."""
LEAST_BYTES: Final = 2 << 20
"""Whoever has less has no huge page to speak of."""


def pause_after(cpu_seconds: float) -> float:
    """Seconds between two passes, if one took so much CPU. Pure."""
    return max(LEAST_SECONDS, cpu_seconds / MOST_CPU_SHARE)


class HugeGrowth:
    """Looks again and again; see the module."""

    def __init__(self) -> None:
        """Have seen nobody."""
        self._found: queue.SimpleQueue[Process] = queue.SimpleQueue()
        self._seen: dict[Process, Look] = {}
        self._allocated: int | None = None
        self._next = 0.0
        self._thread: threading.Thread | None = None

    def forget(self) -> None:
        """Look at everybody anew: they are judged by another rule."""
        self._seen = {}
        self._allocated = None

    def go_on(self, enrolled: Callable[[], Collection[Process]]) -> list[Process]:
        """Begin another pass if that is due.

        Args:
            enrolled: asked for everybody who is enrolled.

        Returns:
            Who was found since the last time.
        """
        busy = self._thread is not None and self._thread.is_alive()
        if not busy and time.monotonic() >= self._next:
            self._next = time.monotonic() + LEAST_SECONDS
            counted = read_vmstat()
            allocated = sum(counted.get(name, 0) for name in COUNTERS)
            if allocated != self._allocated:
                self._allocated = allocated
                self._thread = threading.Thread(
                    target=self._pass, args=(list(enrolled()),), name="huge pages", daemon=True
                )
                self._thread.start()
        found = []
        while not self._found.empty():
            found.append(self._found.get())
        return found

    def _pass(self, enrolled: Collection[Process]) -> None:
        must_not_hang()
        began, before = cpu_seconds(), self._seen
        seen: dict[Process, Look] = {}
        for process in enrolled:
            last = before.get(process)
            try:
                now = Look(0, anonymous_bytes(read_status(process.pid)), time.monotonic())
                if now.anonymous_bytes >= LEAST_BYTES and is_due(last, now, follows_growth=True):
                    last = now
                    if read_huge_pages(process):
                        self._found.put(process)
            except KernelError:
                continue
            if last is not None:
                seen[process] = last
        if self._seen is before:  # else it is to be forgotten
            self._seen = seen
        self._next = time.monotonic() + pause_after(cpu_seconds() - began)
