"""Builds the status of the node, and its series, from what the agent knows and the kernel says."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ksm_operator.agent import guard, report
from ksm_operator.agent.admission import NO_HEADROOM, without_headroom
from ksm_operator.agent.host import Host, Obstacle
from ksm_operator.agent.knobs import Troubles
from ksm_operator.agent.phantom import PhantomCharge
from ksm_operator.agent.status import conditions, counts
from ksm_operator.agent.wire import (
    Condition,
    ForeignMerger,
    KernelStatus,
    NodeMemory,
    NodeSpec,
    NodeStatus,
    ReportedOwner,
)
from ksm_operator.kernel import SkipReason, page_size, read_meminfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ksm_operator.agent.metrics import Metrics
    from ksm_operator.agent.obey import Obedience
    from ksm_operator.agent.releasing import Left
    from ksm_operator.agent.state import State
    from ksm_operator.agent.view import View
    from ksm_operator.kernel import KsmValues

CPU_WINDOW: Final = 60.0
"""Seconds over which ksmd's CPU is averaged for the status."""
HELPER_IS_PROTECTED: Final = "HelperIsNeverOomKilled"
PAUSE: Final = str(SkipReason.PAUSE)
NEVER_KILLED: Final = -1000
"""The oom_score_adj that the helper asks for."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the main loop stands.

    Attributes:
        spec: what is obeyed; None before the first.
        unknown: terms of the latest spec that are not known.
        settled: every selected container has been looked at.
        leaving: containers that have left and are not released.
        foreign: processes outside of the domain that asked for merging, at most ten.
        foreign_count: how many there are.
    """

    spec: NodeSpec | None
    unknown: Sequence[str]
    settled: bool
    leaving: int
    foreign: Sequence[ForeignMerger]
    foreign_count: int


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
        self._phantom = PhantomCharge(self._host.hierarchy) if self._host is not None else None

    def _facts(self, progress: Progress) -> report.Facts:
        hands, spec, state = self._hands, progress.spec, self._state
        owner = spec.owner if spec is not None else None
        former = state.owner if owner is None or state.owner != owner.uid else ""
        obstacle = self._obstacle
        helper = self._host.tracer if self._host is not None else None
        return report.Facts(
            obstacle=(obstacle.reason, str(obstacle)) if obstacle is not None else None,
            unknown=progress.unknown,
            desired=spec.desired_state if spec is not None else "",
            former=former if state.containers else "",
            external=hands.external if hands is not None else False,
            touched=state.touched,
            settled=progress.settled,
            leaving=progress.leaving,
            left=_blocking(hands) if hands is not None else [],
            processes=hands.enrolment.enrolled_count() if hands is not None else 0,
            containers=sum(1 for one in state.containers.values() if one.enrolled),
            yielded=sorted(state.yielded),
            unrestored=hands.unrestored if hands is not None else (),
            troubles=hands.troubles if hands is not None else Troubles(),
            foreign=progress.foreign,
            foreign_count=progress.foreign_count,
            helper_deaths=helper.deaths if helper is not None and helper.failing else 0,
            exposed=guard.describe(hands.guard.exposed) if hands is not None else "",
            debt=hands.debt.message() if hands is not None and hands.debt is not None else "",
        )

    def status(self, progress: Progress) -> NodeStatus:
        """Return the status now, and show the same figures in the metrics."""
        state, hands = self._state, self._hands
        generation = state.generation or None
        self.conditions = conditions(
            report.judge(self._facts(progress)), self.conditions, generation, time.time()
        )
        values = hands.knobs.read() if hands is not None else None
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
        self._metrics.foreign.set(progress.foreign_count)
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
            memory=_memory(values if state.touched else None, phantom),
            ksmd_milli_cpu=milli_cpu,
            # An empty map would be applied as null, which the schema refuses.
            baseline={
                name: str(saved.before) for name, saved in sorted(state.baseline.files.items())
            }
            or None,
            foreign_mergers=tuple(progress.foreign),
            foreign_merger_count=progress.foreign_count,
            conditions=self.conditions,
        )

    def _phantom_bytes(self, values: KsmValues | None) -> int | None:
        if self._phantom is None or values is None:
            return None
        size = self._phantom.read(
            (process for one in self._state.containers.values() for process in one.enrolled),
            anything_merged=self._state.touched and bool(values.pages_shared),
        )
        self._metrics.phantom.set(math.nan if size is None else size)
        return size

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
            metrics.profit.set(values.general_profit or 0)
        if self._host is not None:
            metrics.ksmd_used(self._host.ksmd_cpu_ns())
            metrics.helper_died(self._host.tracer.deaths)
        metrics.processes.set(enrolled)
        metrics.containers.set(merging_containers)
        metrics.count_skipped(skipped)


def _memory(values: KsmValues | None, phantom: int | None) -> NodeMemory:
    available = read_meminfo().get("MemAvailable")
    if values is None:
        return NodeMemory(available_bytes=available)
    return NodeMemory(
        saved_bytes=values.saved_bytes(page_size()),
        profit_bytes=values.general_profit,
        phantom_bytes=phantom,
        available_bytes=available,
    )


def _blocking(hands: Obedience) -> list[Left]:
    now = time.monotonic()
    return [one for one in hands.enrolment.left.values() if one.blocks(now)]
