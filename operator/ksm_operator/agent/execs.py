"""Brings processes that join a container which runs already, as `kubectl exec` makes them.

They are nobody's child in the container, so they inherit nothing, and they make no cgroup. On
version 1 the cgroup watch sees the runtime's write; where it does not, the exec shows them.
"""

from __future__ import annotations

import logging
import select
import threading
import time
from typing import TYPE_CHECKING, Final

from ksm_operator.agent.cgroups import containers
from ksm_operator.agent.news import CgroupEntered, News
from ksm_operator.agent.placement import Placement, place
from ksm_operator.kernel import ExecWatch, KernelError, read_cgroup, read_stat

if TYPE_CHECKING:
    import queue
    from collections.abc import Iterable

    from ksm_operator.kernel import Hierarchy

log = logging.getLogger(__name__)

GATHER_SECONDS: Final = 0.5
"""One wake-up serves all programs that begin within this time."""
MOST: Final = 500
"""Programs that are looked at one by one after a wake-up; with more, every container is."""


class ExecListener(threading.Thread):
    """Brings containers that a process has joined as news."""

    def __init__(self, hierarchy: Hierarchy, news: queue.SimpleQueue[News]) -> None:
        """Start watching.

        Raises:
            KernelError: this kernel does not tell.
        """
        super().__init__(name="execs", daemon=True)
        self._hierarchy = hierarchy
        self._controller = "memory" if hierarchy.version == 1 else ""
        self._news = news
        self._watch = ExecWatch()

    def run(self) -> None:
        """Bring news for ever."""
        poll = select.poll()
        poll.register(self._watch.fileno(), select.POLLIN)
        while True:
            poll.poll()
            time.sleep(GATHER_SECONDS)
            pids = self._watch.read()
            if pids is None or len(pids) > MOST:
                entered: Iterable[str] = containers(self._hierarchy)
            else:
                entered = {path for pid in pids if (path := self._joined(pid)) is not None}
            for path in entered:
                self._news.put(CgroupEntered(path))

    def _joined(self, pid: int) -> str | None:
        """The container that a process has come into from outside; None for a child of its own."""
        try:
            placement = self._place(pid)
            if placement is None or placement.container_id is None:
                return None
            above = self._place(read_stat(pid).ppid)
        except KernelError:
            return None
        return None if above == placement else placement.container_path

    def _place(self, pid: int) -> Placement | None:
        return place(read_cgroup(pid).get(self._controller, ""))


def listen_for_execs(hierarchy: Hierarchy, news: queue.SimpleQueue[News]) -> None:
    """Start to bring news, if this kernel tells; else there is the look of once a minute."""
    try:
        ExecListener(hierarchy, news).start()
    except KernelError as error:
        log.warning(
            "processes that join a running container are noticed within a minute only",
            extra={"why": str(error)},
        )
