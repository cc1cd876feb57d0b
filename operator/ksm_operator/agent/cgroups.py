"""The containers of the node, from its memory cgroups: listed, and noticed as they appear."""

from __future__ import annotations

import logging
import select
import threading
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

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
    find_process,
    pids,
    walk,
)

if TYPE_CHECKING:
    import queue
    from collections.abc import Collection

    from ksm_operator.kernel import Hierarchy, Process

log = logging.getLogger(__name__)


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

    Attributes:
        tells_entries: whether it brings processes that are put into a container as well.
    """

    def __init__(self, hierarchy: Hierarchy, news: queue.SimpleQueue[News]) -> None:
        """Start watching; list the hierarchy afterwards and nothing is missed.

        Raises:
            OSError: the kernel has no watches left.
        """
        super().__init__(name="cgroups", daemon=True)
        self._hierarchy = hierarchy
        self._news = news
        self._watch = CgroupWatch(hierarchy.mount, entries=hierarchy.version == 1)
        self.tells_entries = hierarchy.version == 1 and self._watch.method == "fanotify"
        log.info("watching cgroups", extra={"method": self._watch.method})

    def run(self) -> None:
        """Bring news for ever."""
        poll = select.poll()
        poll.register(self._watch.fileno(), select.POLLIN)
        while True:
            poll.poll()
            for event in self._watch.read():
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
