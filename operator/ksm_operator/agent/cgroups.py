"""The containers of the node, from its memory cgroups: listed, and noticed as they appear."""

from __future__ import annotations

import logging
import select
import threading
import time
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from ksm_operator.agent.news import (
    CgroupAppeared,
    CgroupEntered,
    CgroupsUncertain,
    CgroupVanished,
    News,
)
from ksm_operator.agent.placement import Placement, place
from ksm_operator.kernel import (
    CgroupWatch,
    Created,
    Deleted,
    Entered,
    KernelError,
    Rescan,
    find_process,
    pids,
    walk,
)

if TYPE_CHECKING:
    import queue
    from collections.abc import Callable, Collection

    from ksm_operator.kernel import CgroupEvent, Hierarchy, Process

log = logging.getLogger(__name__)

RETRY_SECONDS: Final = 60.0
"""Until cgroups that could not be watched are tried again."""


def cgroup_of(hierarchy: Hierarchy, directory: Path) -> str:
    """Return a directory's cgroup path as /proc/PID/cgroup has it."""
    return str(PurePosixPath(hierarchy.root) / directory.relative_to(hierarchy.mount))


def container_at(path: str) -> Placement | None:
    """Return the placement if this very path is a container's own cgroup."""
    placement = place(path)
    if placement is None or placement.container_id is None or placement.container_path != path:
        return None
    return placement


def containers(hierarchy: Hierarchy) -> dict[str, Placement]:
    """List the containers that exist now, by cgroup path."""
    found = {}
    for directory in walk(hierarchy.mount):
        path = cgroup_of(hierarchy, directory)
        placement = container_at(path)
        if placement is not None:
            found[path] = placement
    return found


def processes_in(hierarchy: Hierarchy, path: str) -> list[int]:
    """Return the pids in a container's cgroup and below it."""
    return [pid for directory in walk(hierarchy.path(path)) for pid in pids(directory)]


def living_in(hierarchy: Hierarchy, path: str, but: Collection[int] = frozenset()) -> list[Process]:
    """Return who lives in a container's cgroup now, the oldest first.

    Args:
        hierarchy: of the memory controller.
        path: the container's cgroup.
        but: pids of those that are left out; they cost nothing.
    """
    found = []
    for pid in processes_in(hierarchy, path):
        if pid in but:
            continue
        try:
            found.append(find_process(pid))
        except KernelError:
            continue
    return sorted(found, key=lambda process: (process.start_time, process.pid))


class CgroupListener(threading.Thread):
    """Brings directories that appear and vanish as news.

    Where the kernel has no watch left for some of them, or for any, those are found by the look at
    all containers that the main loop has once a minute, and it is tried again as often.

    Attributes:
        tells_entries: whether it brings processes that are put into a container as well.
    """

    def __init__(
        self,
        hierarchy: Hierarchy,
        news: queue.SimpleQueue[News],
        failed: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start watching; list the hierarchy afterwards and nothing is missed.

        Args:
            hierarchy: of the memory controller.
            news: where it is put.
            failed: called when something begins not to be watched.
            clock: seconds.
        """
        super().__init__(name="cgroups", daemon=True)
        self._hierarchy = hierarchy
        self._news = news
        self._failed = failed
        self._clock = clock
        self._shortage = ""
        self._retry_at = 0.0
        self._watch = self._begin()
        fanotify = self._watch is not None and self._watch.method == "fanotify"
        self.tells_entries = hierarchy.version == 1 and fanotify

    def _begin(self) -> CgroupWatch | None:
        hierarchy = self._hierarchy
        self._retry_at = self._clock() + RETRY_SECONDS
        try:
            watch = CgroupWatch(hierarchy.mount, entries=hierarchy.version == 1)
        except OSError as error:
            self._lacks(str(error))
            return None
        log.info("watching cgroups", extra={"method": watch.method})
        self._lacks(watch.shortage)
        return watch

    def _lacks(self, shortage: str) -> None:
        if shortage and not self._shortage:
            self._failed()
            log.warning(
                "not all cgroups can be watched: containers there are noticed within a minute only",
                extra={"why": shortage},
            )
        elif self._shortage and not shortage:
            log.info("all cgroups are watched again")
        self._shortage = shortage

    def run(self) -> None:
        """Bring news for ever."""
        while True:
            if self._watch is None:
                time.sleep(RETRY_SECONDS)
            else:
                poll = select.poll()
                poll.register(self._watch.fileno(), select.POLLIN)
                poll.poll(RETRY_SECONDS * 1000 if self._shortage else None)
            self.bring()

    def bring(self) -> None:
        """Put on the queue what came since the last time, without waiting."""
        events = self._watch.read() if self._watch is not None else []
        if self._shortage and self._clock() >= self._retry_at:
            events += self._retry()
        if self._watch is not None:
            self._lacks(self._watch.shortage)
        for event in events:
            self._put(event)

    def _retry(self) -> list[CgroupEvent]:
        self._retry_at = self._clock() + RETRY_SECONDS
        if self._watch is not None:
            return self._watch.retry()
        self._watch = self._begin()
        return [Rescan()] if self._watch is not None else []

    def _put(self, event: CgroupEvent) -> None:
        if isinstance(event, Created):
            self._news.put(CgroupAppeared(cgroup_of(self._hierarchy, event.path)))
        elif isinstance(event, Deleted):
            self._news.put(CgroupVanished(cgroup_of(self._hierarchy, event.path)))
        elif isinstance(event, Entered):
            placement = place(cgroup_of(self._hierarchy, event.path))
            if placement is not None:
                self._news.put(CgroupEntered(placement.container_path))
        else:
            self._news.put(CgroupsUncertain())
