"""Builds the status of the node, and its series, from what the agent knows and the kernel says."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ksm_operator.agent import guard, report
from ksm_operator.agent.admission import NO_HEADROOM, without_headroom
from ksm_operator.agent.affinity import AFFINITY
from ksm_operator.agent.container_series import pod_rows, rows
from ksm_operator.agent.containers_survey import ContainersSurvey
from ksm_operator.agent.host import Host, Obstacle
from ksm_operator.agent.isolation import Named
from ksm_operator.agent.knobs import Troubles
from ksm_operator.agent.phantom import PhantomCharge
from ksm_operator.agent.status import conditions, counts
from ksm_operator.agent.wire import (
    Condition,
    KernelStatus,
    NodeMemory,
    NodeSpec,
    NodeStatus,
    ReportedOwner,
)
from ksm_operator.kernel import SkipReason, format_cpus, page_size, read_meminfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ksm_operator.agent.metrics import Metrics
    from ksm_operator.agent.neighbours import Neighbours
    from ksm_operator.agent.obey import Obedience
    from ksm_operator.agent.observation import Observed
    from ksm_operator.agent.releasing import Left
    from ksm_operator.agent.state import State
    from ksm_operator.agent.view import View
    from ksm_operator.kernel import KsmValues

CPU_WINDOW: Final = 60.0
"""Seconds over which ksmd's CPU is averaged for the status."""
HELPER_IS_PROTECTED: Final = "HelperIsNeverOomKilled"
PAUSE: Final = str(SkipReason.PAUSE)
LONGEST_VALUE: Final = 20
"""Characters of a value of the baseline that the schema takes."""
NEVER_KILLED: Final = -1000
"""The oom_score_adj that the helper asks for."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the main loop stands.

    Attributes:
        spec: what is obeyed; None before the first.
        unknown: terms of the latest spec that cannot be understood.
        settled: every selected container has been looked at.
        leaving: containers that have left and are not released.
        neighbours: others who merge on this node; None where nothing can be seen.
    """

    spec: NodeSpec | None
    unknown: Sequence[str]
    settled: bool
    leaving: int
    neighbours: Neighbours | None


class Reporter:
    """Says how the node is.

    Attributes:
        conditions: as they were said last; their times go on from there.
    """

    def __init__(
        self,
        host: Host | Obstacle,
        hands: Obedience | None,
        *,
        state: State,
        view: View,
        metrics: Metrics,
        version: str,
    ) -> None:
        self.conditions: tuple[Condition, ...] = ()
        self._host = host if isinstance(host, Host) else None
        self._obstacle = host if isinstance(host, Obstacle) else None
        self._state = state
        self._view = view
        self._hands = hands
        self._metrics = metrics
        self._version = version
        self._cpu: list[tuple[float, int]] = []
        hierarchy = self._host.hierarchy if self._host is not None else None
        self._containers = (
            ContainersSurvey(hierarchy)
            if hierarchy and metrics.each_container is not None
            else None
        )
        self._phantom = PhantomCharge(hierarchy, self._containers) if hierarchy else None

    def _facts(self, progress: Progress, values: KsmValues | None) -> report.Facts:
        hands, spec, state = self._hands, progress.spec, self._state
        run = values.run if values is not None else None
        theirs = report.run_is_theirs(state.yielded, state.baseline.files)
        debt = hands.debt if hands is not None else None
        owner = spec.owner if spec is not None else None
        former = state.owner if owner is None or state.owner != owner.uid else ""
        obstacle = self._obstacle
        helper = self._host.tracer if self._host is not None else None
        named = progress.neighbours.named if progress.neighbours is not None else Named()
        return report.Facts(
            obstacle=(obstacle.reason, str(obstacle)) if obstacle is not None else None,
            unknown=progress.unknown,
            desired=spec.desired_state if spec is not None else "",
            former=former if state.containers else "",
            manager=(hands.manager or "") if hands is not None else "",
            touched=state.touched,
            settled=progress.settled,
            leaving=progress.leaving,
            left=_blocking(hands) if hands is not None else [],
            processes=hands.enrolment.enrolled_count() if hands is not None else 0,
            containers=sum(1 for one in state.containers.values() if one.enrolled),
            yielded=sorted(state.yielded),
            unrestored=hands.unrestored if hands is not None else (),
            troubles=hands.troubles if hands is not None else Troubles(),
            foreign=named.mergers,
            foreign_count=named.count,
            looked=progress.neighbours is not None and progress.neighbours.looked,
            held=hands.held if hands is not None else False,
            run=run,
            run_is_theirs=theirs,
            helper_deaths=helper.deaths if helper is not None and helper.failing else 0,
            exposed=guard.describe(hands.guard.exposed) if hands is not None else "",
            debt=debt.message(others_scan=run == 1 and theirs) if debt is not None else "",
            observed=hands.observation.last if hands is not None else None,
        )

    def status(self, progress: Progress) -> NodeStatus:
        """Return the status now, and show the same figures in the metrics."""
        state, hands = self._state, self._hands
        generation = state.generation or None
        values = hands.knobs.read() if hands is not None else None
        judged = report.judge(self._facts(progress, values))
        self.conditions = conditions(judged, self.conditions, generation, time.time())
        merging_pods = {one.pod_uid for one in state.containers.values() if one.enrolled}
        merging_containers = sum(1 for one in state.containers.values() if one.enrolled)
        pods = self._view.pod_counts(merging_pods)
        matched, skipped = self._view.container_counts()
        enrolled, processes_skipped = 0, {}
        if hands is not None:
            enrolled = hands.enrolment.enrolled_count()
            wanted = dict.fromkeys([*self._view.to_merge(), *state.containers])
            processes_skipped = dict(hands.enrolment.skipped_processes(wanted))
            # A pod's sandbox is a container to the kernel, with this one process in it.
            skipped.update({PAUSE: processes_skipped.get(PAUSE, 0)})
            tight = without_headroom(hands.enrolment.seen, self._view.to_merge())
            skipped.update({NO_HEADROOM: len(tight)})
            uids = {self._view.containers[path].pod_uid for path in tight}
            pods[2].update({NO_HEADROOM: len(uids - merging_pods)})
        milli_cpu = self._ksmd_milli_cpu()
        phantom = self._phantom_bytes(values)
        neighbours = progress.neighbours
        named = neighbours.named if neighbours is not None else Named()
        if neighbours is not None:
            self._metrics.foreign.set(len(neighbours.mergers))
            self._metrics.isolation_was_broken(neighbours.isolation.times)
        observed = hands.observation.last if hands is not None else None
        self._metrics.observed(observed.saved if observed is not None else None)
        self._measure(values, merging_containers, enrolled, processes_skipped)
        return NodeStatus(
            observed_generation=generation,
            owner=ReportedOwner(uid=state.owner) if state.owner else None,
            boot_id=state.boot_id,
            agent_version=self._version,
            kernel=self._kernel(),
            pods=counts(*pods),
            containers=counts(matched, merging_containers, skipped),
            processes=counts(
                enrolled + sum(processes_skipped.values()), enrolled, processes_skipped
            ),
            memory=_memory(values if state.touched else None, phantom, observed),
            ksmd_milli_cpu=milli_cpu,
            # An empty map would be applied as null, which the schema refuses.
            baseline=_baseline(state) or None,
            foreign_mergers=named.mergers,
            foreign_merger_count=named.count,
            conditions=self.conditions,
        )

    def _phantom_bytes(self, values: KsmValues | None) -> int | None:
        if self._phantom is None or values is None:
            return None
        anything_merged = self._state.touched and bool(values.pages_shared)
        found = self._phantom.read(
            (
                process
                for one in self._state.containers.values()
                for process in one.enrolled | one.own
            ),
            anything_merged=anything_merged,
        )
        self._metrics.show_phantom(found)
        if self._containers is not None and self._metrics.each_container is not None:
            figures = self._containers.figures if anything_merged else ()
            pods = self._containers.pods if anything_merged else ()
            self._metrics.each_container.show(
                rows(figures, self._view.containers, self._view.pods),
                pod_rows(pods, self._view.pods),
            )
        return found.size if found is not None else None

    def _kernel(self) -> KernelStatus | None:
        found = self._host or self._obstacle
        features = found.features if found is not None else None
        if features is None:
            return None
        names = features.names()
        if self._host is not None and self._host.tracer.oom_score_adj == NEVER_KILLED:
            names.append(HELPER_IS_PROTECTED)
        return KernelStatus(
            release=features.release[:64],
            method=features.method or "None",
            features=tuple(names),
        )

    def _ksmd_milli_cpu(self) -> int | None:
        if self._host is None or self._host.ksmd is None:
            return None
        now, used = time.monotonic(), self._host.ksmd_cpu_ns()
        self._cpu = [one for one in self._cpu if now - one[0] <= CPU_WINDOW]
        if not self._cpu or now - self._cpu[-1][0] >= 1.0:
            self._cpu.append((now, used))
        since, before = self._cpu[0]
        return round((used - before) / 1e6 / (now - since)) if now - since >= 1.0 else 0

    def _measure(
        self,
        values: KsmValues | None,
        merging_containers: int,
        enrolled: int,
        skipped: dict[str, int],
    ) -> None:
        metrics = self._metrics
        if values is not None:
            metrics.saved.set(values.saved_bytes(page_size()))
            profit = values.general_profit
            metrics.profit.set(math.nan if profit is None else profit)
            metrics.scan.show(values)
        if self._host is not None:
            metrics.ksmd_used(self._host.ksmd_cpu_ns())
            metrics.helper_died(self._host.tracer.deaths)
        metrics.processes.set(enrolled)
        metrics.containers.set(merging_containers)
        metrics.count_skipped(skipped)


def _baseline(state: State) -> dict[str, str]:
    """What is put back on release, by name."""
    baseline = {name: str(saved.before) for name, saved in sorted(state.baseline.files.items())}
    if state.affinity is not None:
        cpus = format_cpus(state.affinity.before)
        fits = len(cpus) <= LONGEST_VALUE
        baseline[AFFINITY] = cpus if fits else f"{len(state.affinity.before)} CPUs"
    return baseline


def _memory(values: KsmValues | None, phantom: int | None, observed: Observed | None) -> NodeMemory:
    available = read_meminfo().get("MemAvailable")
    if values is None:
        return NodeMemory(
            available_bytes=available,
            estimated_saved_bytes=observed.saved.size if observed is not None else None,
            estimated_saved_error_bytes=observed.saved.error if observed is not None else None,
        )
    return NodeMemory(
        saved_bytes=values.saved_bytes(page_size()),
        profit_bytes=values.general_profit,
        phantom_bytes=phantom,
        available_bytes=available,
    )


def _blocking(hands: Obedience) -> list[Left]:
    """Who holds a release up; one that is let go for its own good waits without harm to anybody."""
    now = time.monotonic()
    left = hands.enrolment.left.values()
    return [one for one in left if one.path in hands.departure.paths and one.blocks(now)]
