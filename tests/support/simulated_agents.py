"""Agents without machines: what the real one says of a KSMNode, in its own words and as quietly.

Conditions, wording, fence and the judgement when a status is worth a write are the product's own
functions. Made up are the facts that a kernel would give.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec

from ksm_operator.agent import report
from ksm_operator.agent import status as quiet
from ksm_operator.agent.knobs import Troubles
from ksm_operator.agent.reconcile import SETTLING_SECONDS
from ksm_operator.agent.report import Facts
from ksm_operator.agent.wire import (
    Condition,
    Counts,
    KernelStatus,
    Node,
    NodeMemory,
    NodeStatus,
    ReportedOwner,
    to_json_types,
)

NOTHING: Final = Facts(
    obstacle=None,
    unknown=(),
    desired="",
    former="",
    manager="",
    touched=False,
    settled=True,
    leaving=0,
    left=(),
    processes=0,
    containers=0,
    yielded=(),
    unrestored=(),
    troubles=Troubles(),
    foreign=(),
    foreign_count=0,
    looked=True,
)
"""A node on which nothing is asked, enrolled or wrong."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a node has to do when it is asked.

    Attributes:
        containers: that its owner's domain has there.
        enrol_seconds: until all of them are enrolled.
        release_seconds: until everything is given back.
    """

    containers: int = 4
    enrol_seconds: float = 0.0
    release_seconds: float = 0.0


class SimulatedAgent:
    """The agent of one node.

    Args:
        work: what there is to do.
        clock: seconds, for the times between writes and for the work.
        now: seconds since the epoch, for what is written.

    Attributes:
        enrolled: uid of the policy whose processes are enrolled, empty for nobody's.
        saved_bytes: what merging gives back while somebody's processes are enrolled.
        troubles: what is not as asked.
    """

    def __init__(
        self, work: Work, clock: Callable[[], float], now: Callable[[], float], boot_id: str
    ) -> None:
        self.enrolled = ""
        self.saved_bytes = 0
        self.troubles = Troubles()
        self._work = work
        self._clock = clock
        self._now = now
        self._boot_id = boot_id
        self._node: Node | None = None
        self._busy_until = 0.0
        self._settling_until = 0.0
        self._written: quiet.Written | None = None
        self._conditions: tuple[Condition, ...] = ()

    @property
    def speaks_at(self) -> float:
        """When it has something to say of what it was asked last, on its clock."""
        settling = self._clock() < self._settling_until
        return min(self._settling_until, self._busy_until) if settling else self._busy_until

    def obey(self, raw: dict[str, Any]) -> None:
        """Take in a KSMNode as the API server has it."""
        node = msgspec.convert(raw, Node)
        known = self._node
        same = known is not None and node.metadata.uid == known.metadata.uid
        if known is not None and same and node.metadata.generation == known.metadata.generation:
            return
        if not same:
            self._written = None
        self._node = node
        self._busy_until = self._clock() + self._needed(node)
        self._settling_until = self._clock() + SETTLING_SECONDS

    def _needed(self, node: Node) -> float:
        owner = node.spec.owner.uid if node.spec.owner is not None else ""
        if node.spec.desired_state == "Released" or self.enrolled not in ("", owner):
            return self._work.release_seconds if self.enrolled else 0.0
        return self._work.enrol_seconds if not self.enrolled else 0.0

    def write(self) -> dict[str, Any] | None:
        """Do what is asked and return the status to apply; None while nothing is worth a write."""
        if self._node is None:
            return None
        status = self._status(self._node)
        now = self._clock()
        settling = now < min(self._settling_until, self._busy_until)
        if settling and self._node.spec.desired_state == "Merging":
            return None
        if not quiet.due(self._written, status, now):
            return None
        self._written = quiet.record(self._written, status, now)
        body: dict[str, Any] = to_json_types(status)
        return body

    def not_written(self) -> None:
        """Say that the API server did not take the last status."""
        self._written = None

    def _status(self, node: Node) -> NodeStatus:
        spec = node.spec
        owner = spec.owner.uid if spec.owner is not None else ""
        done = self._clock() >= self._busy_until
        merging = spec.desired_state in ("Merging", "Paused")
        if merging and self.enrolled in ("", owner):
            # The owner is written down before the first process is touched.
            self.enrolled = owner
        elif spec.desired_state == "Released" and done:
            self.enrolled = ""
        mine = merging and self.enrolled == owner
        containers = self._work.containers if self.enrolled and (done or not mine) else 0
        facts = replace(
            NOTHING,
            desired=spec.desired_state,
            former=self.enrolled if self.enrolled != owner else "",
            touched=bool(self.enrolled),
            settled=done,
            processes=containers * 2,
            containers=containers,
            troubles=self.troubles,
        )
        self._conditions = quiet.conditions(
            report.judge(facts), self._conditions, node.metadata.generation, self._now()
        )
        return NodeStatus(
            observed_generation=node.metadata.generation,
            owner=ReportedOwner(uid=self.enrolled) if self.enrolled else None,
            boot_id=self._boot_id,
            agent_version="simulated",
            kernel=KernelStatus(release="6.18.0", method="Prctl", features=("Prctl", "Advisor")),
            pods=Counts(matched=self._work.containers, merging=containers),
            containers=Counts(matched=self._work.containers, merging=containers),
            processes=Counts(matched=containers * 2, merging=containers * 2),
            memory=NodeMemory(
                saved_bytes=self.saved_bytes if containers else 0,
                profit_bytes=self.saved_bytes if containers else 0,
                available_bytes=16 << 30,
            ),
            ksmd_milli_cpu=20 if containers else 0,
            baseline={"run": "0", "pages_to_scan": "100"} if self.enrolled else None,
            conditions=self._conditions,
        )
