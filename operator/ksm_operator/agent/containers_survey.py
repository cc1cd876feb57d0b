"""What each container has merged and would use without, and what each pod pays for others.

From the survey of the node's payers.

Reads while the survey is fresh, in its thread and on its account of CPU time (:mod:`.phantom`), so
that usage and merged pages are of one moment and a scrape costs nothing.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ksm_operator.agent.placement import Placement, place
from ksm_operator.kernel import KernelError, page_size, read_cgroup, read_ksm_stat
from ksm_operator.kernel.by_cgroup import shares_of_all, without_merging
from ksm_operator.kernel.payers import cgroup_names
from ksm_operator.kernel.usage import read_working_set

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from ksm_operator.kernel import Estimate, Hierarchy, KsmStat, Process, Share, Survey


@dataclass(frozen=True, slots=True)
class ContainerFigures:
    """One container as of a survey.

    Attributes:
        placement: which one.
        at: when, in seconds since the epoch.
        share: its merged pages and who pays for them.
        unmerged: what it would use without merging.
        watched_pages: pages that ksmd keeps a record of.
        profit_bytes: what merging saves by the kernel's account of its processes, less those
            records; None where the kernel does not tell (before 6.4).
    """

    placement: Placement
    at: float
    share: Share
    unmerged: Estimate
    watched_pages: int
    profit_bytes: int | None


@dataclass(frozen=True, slots=True)
class PodFigures:
    """One pod as of a survey.

    Attributes:
        uid: as the names of its cgroups have it.
        phantom: merged pages that are charged to its cgroup, or to one below, and that no process
            of the pod maps. A container that has ended leaves its charge to its pod's cgroup.
    """

    uid: str
    phantom: Estimate


@dataclass(frozen=True, slots=True)
class Counted:
    """What the kernel counts of the processes of a container, added up."""

    watched_pages: int
    zero_pages: int
    profit_bytes: int | None


def counted(stats: Iterable[KsmStat]) -> Counted:
    """Add up; a profit is one only where all have it."""
    stats = list(stats)
    profits = [one.process_profit for one in stats]
    told = [one for one in profits if one is not None]
    return Counted(
        sum(one.rmap_items for one in stats),
        sum(one.zero_pages or 0 for one in stats),
        sum(told) if len(told) == len(profits) else None,
    )


class ContainersSurvey:
    """The containers of the last survey.

    Attributes:
        figures: of each; replaced as a whole.
        pods: the pods that they are of, and others that pay for merged pages; likewise.
    """

    def __init__(self, hierarchy: Hierarchy) -> None:
        """Nothing is known yet."""
        self.figures: tuple[ContainerFigures, ...] = ()
        self.pods: tuple[PodFigures, ...] = ()
        self._hierarchy = hierarchy

    def take(self, survey: Survey, processes: Collection[Process]) -> None:
        """Make the figures of the containers and pods of these processes, all of them surveyed."""
        controller = "memory" if self._hierarchy.version == 1 else ""
        members: defaultdict[Placement, list[Process]] = defaultdict(list)
        pods: dict[Process, str] = {}
        for process in processes:
            try:
                placement = place(read_cgroup(process.pid).get(controller, ""))
            except KernelError:
                continue
            if placement is None:
                continue
            pods[process] = placement.pod_uid
            if placement.container_id is not None:
                members[placement].append(process)
        homes = {one: where.container_path for where, own in members.items() for one in own}
        paying = {each.payer for each in survey.shared}
        places = {
            inode: where
            for inode, name in cgroup_names(self._hierarchy).items()
            if inode in paying and (where := place(name)) is not None
        }
        payers = {
            inode: where.container_path for inode, where in places.items() if where in members
        }
        shares = shares_of_all(survey, homes, payers)
        found = [
            self._look(where, own, shares[where.container_path]) for where, own in members.items()
        ]
        self.figures = tuple(one for one in found if one is not None)
        of_pods = shares_of_all(
            survey, pods, {inode: where.pod_uid for inode, where in places.items()}
        )
        self.pods = tuple(PodFigures(uid, share.phantom) for uid, share in of_pods.items())

    def _look(
        self, where: Placement, processes: Iterable[Process], share: Share
    ) -> ContainerFigures | None:
        stats = []
        for process in processes:
            try:
                stats.append(read_ksm_stat(process))
            except KernelError:
                continue
        used = read_working_set(self._hierarchy, self._hierarchy.path(where.container_path))
        if used is None:
            return None
        sums = counted(stats)
        unmerged = without_merging(share, used, sums.zero_pages * page_size())
        return ContainerFigures(
            where, time.time(), share, unmerged, sums.watched_pages, sums.profit_bytes
        )
