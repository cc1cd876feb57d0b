"""Brings the machine in line with what the node was told, one bounded step after the other."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from ksm_operator.agent.schedule import NEVER
from ksm_operator.agent.status import parse_timestamp

if TYPE_CHECKING:
    from collections.abc import Callable

    from ksm_operator.agent.host import Host
    from ksm_operator.agent.neighbours import Neighbours
    from ksm_operator.agent.obey import Obedience
    from ksm_operator.agent.schedule import Schedule
    from ksm_operator.agent.state import State
    from ksm_operator.agent.told import Told
    from ksm_operator.agent.view import View
    from ksm_operator.agent.wire import NodePolicy

SETTLING_SECONDS: Final = 3.0
"""After a start or an edit the status waits this long for the first look at all containers: a
restart of the agent must not make `Ready` and the counts flap."""
SOON_SECONDS: Final = 1.0
"""From the first look at all containers to the second, which finds what began in between."""
RESERVE_PERCENT: Final = 10
"""Of memory is left alone by a release of which no policy says so."""


class Reconciler:
    """Decides what is done next from what was told and what is seen.

    Attributes:
        dirty: something was heard since the containers were judged.
        settled: every container that was selected when this spec came has been looked at.
        leaving: containers that have left and are not released.
    """

    def __init__(
        self,
        host: Host,
        hands: Obedience,
        neighbours: Neighbours,
        *,
        told: Told,
        state: State,
        view: View,
        schedule: Schedule,
        namespace: str,
        ask: Callable[[str], None],
    ) -> None:
        """Reconcile nothing yet.

        Args:
            host: the machine.
            hands: what touches it.
            neighbours: who else merges there.
            told: what the node is to do.
            state: what is on record.
            view: the containers, pods and namespaces.
            schedule: told when something has to be done sooner.
            namespace: the operator's own, never selected unless named.
            ask: has the API server asked about one namespace.
        """
        self.dirty = True
        self.settled = False
        self.leaving = 0
        self._host = host
        self._hands = hands
        self._neighbours = neighbours
        self._told = told
        self._state = state
        self._view = view
        self._schedule = schedule
        self._namespace = namespace
        self._ask = ask
        self._asked: set[str] = set()
        self._settling_until = time.monotonic() + SETTLING_SECONDS

    def begin_anew(self) -> None:
        """Another spec was told."""
        self._settling_until = time.monotonic() + SETTLING_SECONDS
        self.settled = False

    def is_settling(self) -> bool:
        """Tell whether the first look at all containers is still under way, in good time."""
        spec = self._told.spec
        return (
            not self.settled
            and not self._hands.manager
            and spec is not None
            and spec.desired_state == "Merging"
            and time.monotonic() < self._settling_until
        )

    def reconcile(self) -> bool:  # noqa: PLR0911 - each step may end it
        """Bring the machine one step nearer; True when there is nothing left to do."""
        spec, hands = self._told.spec, self._hands
        if spec is None:
            return True
        policy = spec.policy
        reserve = policy.release_reserve_percent if policy is not None else RESERVE_PERCENT
        if spec.desired_state == "Released":
            self.leaving = len(self._state.containers)
            self._view.forget_verdicts()
            self.dirty = True
            self._look_around()
            return hands.give_back(reserve, self._neighbours.others_merge)
        if spec.owner is None or policy is None:
            return True  # that something is missing is no reason to undo anything
        self._judge(policy)
        consent = hands.enrolment.consent
        asked = self._view.asked()
        consent.follow(asked, set(self._view.to_merge()) - asked)
        self._look_around()
        if spec.desired_state == "Observing":
            return self._observe(policy)
        if not hands.accept(spec.owner, policy.ksmd, self._neighbours.manager):
            if self._state.owner in ("", spec.owner.uid):
                return True
            self.leaving = len(self._state.containers)
            return hands.departure.step(list(self._state.containers), reserve)
        leaving = [
            path
            for path in self._state.containers
            if path in self._view.verdicts and self._view.verdicts[path].leaves
        ]
        self.leaving = len(leaving)
        outgoing = hands.enrolment.outgoing()
        only = {path: them for path, them in outgoing.items() if path not in leaving}
        released = hands.departure.step([*leaving, *only], reserve, only)
        if any(path in self._state.containers for path in leaving):
            return False
        self.leaving = 0
        done = spec.desired_state != "Merging" or self._merge(policy)
        return done and released and not hands.enrolment.outgoing()

    def _merge(self, policy: NodePolicy) -> bool:
        hands = self._hands
        if not hands.make_way(policy.ksmd, self._neighbours.others_merge):
            return False
        hands.enrolment.huge_pages.obey(policy.enrollment.huge_pages)
        done = hands.attention.enrol(self._admitted(), self._pod_of)
        settled = done and self._all_listed() and not self._asked
        if settled and not self.settled:
            soon = time.monotonic() + SOON_SECONDS
            self._schedule.resync = min(self._schedule.resync, soon)
        # Containers that come later do not make a node that is ready unready.
        self.settled = self.settled or settled
        if self._schedule.govern == NEVER and self._state.containers:
            self._schedule.govern = 0.0
        return True

    def _observe(self, policy: NodePolicy) -> bool:
        self.leaving = len(self._state.containers)
        reserve = policy.release_reserve_percent
        if not self._hands.give_back(reserve, self._neighbours.others_merge):
            return False
        self._hands.observation.go_on(self._view.to_merge(), self._hands.enrolment.consent, policy)
        return True

    def _look_around(self) -> None:
        """See who else merges on this node, and whether ksmd may scan."""
        if not self._all_listed() and time.monotonic() < self._settling_until:
            return  # who belongs to the domain is not known yet
        view, enrolled = self._view, self._state.containers.keys()
        domain = enrolled | view.domain()
        if self._neighbours.follow(domain, set(view.containers), view.pods, enrolled):
            self._schedule.happened = True
        policy = self._told.policy
        wanted = policy.isolation.on_foreign_merging if policy is not None else "Pause"
        if self._hands.hold(self._neighbours.forbid_scanning(wanted)):
            self._schedule.govern = 0.0

    def _all_listed(self) -> bool:
        return self._view.namespaces_listed and self._view.pods_are_listed

    def _admitted(self) -> list[str]:
        """Containers to enrol now: nobody new while it is not known yet who of the old leaves."""
        known = self._view.namespaces_listed and not self._asked
        return [path for path in self._view.to_merge() if known or path in self._state.containers]

    def _judge(self, policy: NodePolicy) -> None:
        if not self.dirty:
            return
        self.dirty = False
        spec = self._told.spec
        enrolled = {one.pod_uid for one in self._state.containers.values()}
        self._asked = self._view.judge(
            policy,
            self._namespace,
            parse_timestamp(spec.granted_at if spec is not None else None),
            self._started_at,
            enrolled,
        )
        for name in self._asked:
            self._ask(name)

    def _started_at(self, path: str) -> float | None:
        first = self._hands.enrolment.oldest(path)
        return self._host.started_at(first) if first is not None else None

    def _pod_of(self, path: str) -> str:
        return self._view.containers[path].pod_uid
