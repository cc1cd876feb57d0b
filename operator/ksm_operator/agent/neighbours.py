"""What the main loop knows of others who merge on its node, and what follows from it."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from ksm_operator.agent.cgroups import processes_in
from ksm_operator.agent.foreign_watch import ForeignWatch
from ksm_operator.agent.isolation import Isolation, Named
from ksm_operator.agent.managers import who_manages
from ksm_operator.agent.status import shorten
from ksm_operator.agent.wire import ForeignMerger

if TYPE_CHECKING:
    import queue
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from ksm_operator.agent.foreign import Candidate
    from ksm_operator.agent.host import Host
    from ksm_operator.agent.news import ForeignSeen, News
    from ksm_operator.agent.wire import ObjectMeta

log = logging.getLogger(__name__)

UNKNOWN_SECONDS: Final = 5.0
"""How long a new process of a pod that nobody has told us of may still be one of the domain."""
MOST_NAMED: Final = 5
LONGEST_POD: Final = 80
"""What the schema of a KSMNode has room for."""


class Neighbours:
    """Others who merge, seen by a thread of its own.

    Attributes:
        isolation: whether the domain is alone.
        named: whom the status names.
        mergers: processes outside of the domain that merge now.
        looked: the first look at the node is over.
    """

    def __init__(self, host: Host, news: queue.SimpleQueue[News]) -> None:
        self.isolation = Isolation()
        self.named = Named()
        self.mergers: Sequence[Candidate] = ()
        self._seen: ForeignSeen | None = None
        self.looked = False
        self._question: int | None = None
        self._watch = ForeignWatch(
            "memory" if host.hierarchy.version == 1 else "",
            news,
            lambda path: processes_in(host.hierarchy, path),
            shows_flag=host.features.ksm_stat_shows_flag,
        )

    def start(self) -> None:
        """Begin to watch."""
        self._watch.start()

    def close(self) -> None:
        """End it; nothing of it stays in the kernel."""
        self._watch.close()

    def hear(self, seen: ForeignSeen) -> None:
        """Take what the thread saw."""
        self._seen = seen

    def follow(
        self,
        domain: AbstractSet[str],
        containers: AbstractSet[str],
        pods: Mapping[str, ObjectMeta],
        enrolled: AbstractSet[str] = frozenset(),
    ) -> bool:
        """Find out who merges outside of the domain; call it before anything is enrolled.

        Args:
            domain: cgroup paths of the containers that belong together.
            containers: of all that are on the node.
            pods: what is known of the node's pods, by the uid in their cgroups' names.
            enrolled: those of the domain who merge. Who manages ksmd is looked for everywhere else,
                so that nothing is overlooked before the node is taken.

        Returns:
            Whether isolation was just broken or restored, or is known for the first time.
        """
        self._watch.take_domain(domain, enrolled, (self._watch.domain - domain) & containers)
        if self._seen is None:
            return False
        now, before = time.monotonic(), self.isolation
        first, self.looked = not self.looked, True
        self.mergers = [
            one
            for one in self._seen.mergers
            if not one.is_in(domain) and not _is_unknown(one, pods)
        ]
        self.isolation = before.follow(now, foreign=bool(self.mergers))
        named = tuple(_named(one, pods) for one in self.mergers[:MOST_NAMED])
        broken = self.isolation.broken
        self.named = self.named.follow(now, named, len(self.mergers), broken=broken)
        if broken != before.broken:
            log.warning(
                "others merge on this node" if broken else "nobody else merges any more",
                extra={"pids": [one.process.pid for one in self.mergers[:MOST_NAMED]]},
            )
        return first or broken != before.broken

    def due(self) -> float:
        """Return the monotonic time at which isolation may be restored."""
        return self.isolation.until if self.isolation.broken else float("inf")

    def forbid_scanning(self, on_foreign_merging: str) -> bool:
        """Tell whether ksmd has to stand still; also until the first look at the node is over."""
        return on_foreign_merging == "Pause" and (not self.looked or self.isolation.broken)

    def others_merge(self) -> bool | None:
        """Tell whether anybody else merges, by a look that begins now; None while it goes on."""
        if self._question is None:
            self._question = self._watch.ask()
        if self._seen is None or self._seen.round < self._question:
            return None
        self._question = None
        return bool(self.mergers)

    def manager(self, run: int) -> str | None:
        """Say who has merging on this node in hand; empty for nobody, None before the first look.

        Args:
            run: what /sys/kernel/mm/ksm/run holds.
        """
        if self._seen is None:
            return None
        host = [one for one in self._seen.mergers if one.placement is None]
        return who_manages(run, host, self._seen.managers)


def _is_unknown(merger: Candidate, pods: Mapping[str, ObjectMeta]) -> bool:
    """Tell whether its pod is so new that the API server may not have told of it yet."""
    pod = merger.placement.pod_uid if merger.placement is not None else None
    return pod is not None and pod not in pods and merger.age() < UNKNOWN_SECONDS


def _named(merger: Candidate, pods: Mapping[str, ObjectMeta]) -> ForeignMerger:
    uid = merger.placement.pod_uid if merger.placement is not None else None
    pod = pods.get(uid) if uid is not None else None
    name = shorten(f"{pod.namespace}/{pod.name}", LONGEST_POD) if pod is not None else None
    return ForeignMerger(pid=merger.process.pid, command=merger.command, pod_uid=uid, pod=name)
