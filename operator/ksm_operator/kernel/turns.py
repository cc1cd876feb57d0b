"""What a process is asked before each chunk that it is given back: is there room, and still?"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.headroom import tightest, with_margin
from ksm_operator.kernel.unmerge import MARGIN_BYTES

if TYPE_CHECKING:
    from pathlib import Path

    from ksm_operator.kernel.headroom import Level, Rooms
    from ksm_operator.kernel.procfs import Process
    from ksm_operator.kernel.release import ReleaseProgress

TIGHT_PAUSE_SECONDS: Final = 0.02
"""Left to the kernel to reclaim after a chunk that reached a limit."""

NO_ROOM: Final = -1


class Turn:
    """One process while it is given its pages: its room, and what happens to its cgroups."""

    def __init__(self, process: Process, rooms: Rooms, proc: Path) -> None:
        """Begin.

        Raises:
            ProcessGone: it exited.
            KernelError: its cgroup is not known.
        """
        self._process = process
        self._rooms = rooms
        self._proc = proc
        self._events = rooms.events(self.directory())
        self._is_short = False

    def directory(self) -> Path:
        """The cgroup that it is in now."""
        return self._rooms.hierarchy.directory(self._process.pid, proc=self._proc)

    def level(self) -> Level | None:
        """Where the least room is."""
        return tightest(self._rooms.levels(self.directory()))

    def room(self) -> int | None:
        """Asked before every chunk; an OOM since the turn began ends it."""
        if self._is_short:
            return NO_ROOM
        level = self.level()
        return None if level is None else level.room

    def pause(self) -> float:
        """Seconds that the kernel should have after this chunk."""
        before, self._events = self._events, self._rooms.events(self.directory())
        self._is_short |= self._events.is_short_since(before)
        return TIGHT_PAUSE_SECONDS if self._events.is_tight_since(before) else 0.0

    def explained(self, progress: ReleaseProgress) -> ReleaseProgress:
        """With the name of the level that lacks, if that is why it ended."""
        level = self.level()
        if progress.reason != "NoHeadroom" or level is None or level.room is None:
            return progress
        need = progress.remaining_bytes
        lacking = max(0, with_margin(need, MARGIN_BYTES) - level.room)
        return replace(progress, level=level.name, lacking_bytes=lacking)
