"""The main loop: news comes in, the machine is brought in line, the status goes out."""

from __future__ import annotations

import logging
import queue
import time
from typing import TYPE_CHECKING, Final

from ksm_operator.agent.cgroups import CgroupListener, container_at, containers
from ksm_operator.agent.execs import listen_for_execs
from ksm_operator.agent.host import Host, Obstacle
from ksm_operator.agent.neighbours import Neighbours
from ksm_operator.agent.news import (
    CgroupAppeared,
    CgroupEntered,
    CgroupsUncertain,
    CgroupVanished,
    Changed,
    Deleted,
    ForeignSeen,
    Listed,
    LookedUp,
    News,
    Stop,
)
from ksm_operator.agent.obey import Obedience
from ksm_operator.agent.reporter import Progress, Reporter
from ksm_operator.agent.state import State, save
from ksm_operator.agent.status import parse_timestamp
from ksm_operator.agent.told import Told
from ksm_operator.agent.view import View
from ksm_operator.agent.watches import Watches
from ksm_operator.agent.wire import (
    Node,
    NodePolicy,
    ObjectMeta,
)
from ksm_operator.agent.writer import StatusWriter
from ksm_operator.kernel import KernelError

if TYPE_CHECKING:
    from ksm_operator.agent.client import Client
    from ksm_operator.agent.identity import Identity
    from ksm_operator.agent.metrics import Metrics
    from ksm_operator.agent.vigilance import Vigilance

log = logging.getLogger(__name__)

RESYNC_SECONDS: Final = 60.0
REPORT_SECONDS: Final = 5.0
NEWS_REPORT_SECONDS: Final = 0.25
"""Seconds between two looks at the status: without and with something having happened."""
LONGEST_WAIT: Final = 5.0
FAILURE_PAUSE: Final = 1.0
SETTLING_SECONDS: Final = 3.0
"""After a start or an edit the status waits this long for the first look at all containers: a
restart of the agent must not make `Ready` and the counts flap."""


class Agent:
    """One node's agent.

    Attributes:
        news: where threads put what they see.
        stopping: set by SIGTERM.
    """

    def __init__(
        self,
        identity: Identity,
        client: Client,
        host: Host | Obstacle,
        state: State,
        metrics: Metrics,
        *,
        vigilance: Vigilance | None = None,
    ) -> None:
        self.news: queue.SimpleQueue[News] = queue.SimpleQueue()
        self.stopping = False
        self._identity = identity
        self._host = host if isinstance(host, Host) else None
        self._state = state
        self._metrics = metrics
        self._view = View()
        self._hands = (
            Obedience(host, state, self._save, metrics, self._is_stopping, vigilance=vigilance)
            if isinstance(host, Host)
            else None
        )
        self._reporter = Reporter(
            host,
            self._hands,
            state=state,
            view=self._view,
            metrics=metrics,
            version=identity.version,
        )
        self._writer = StatusWriter(client, identity.node, metrics)
        self._watches = Watches(client, identity.node, self.news)
        self._told = Told(state)
        self._dirty = True
        self._settled = False
        self._settling_until = time.monotonic() + SETTLING_SECONDS
        self._leaving = 0
        self._asked: set[str] = set()
        self._neighbours = Neighbours(host, self.news) if isinstance(host, Host) else None
        self._beat = time.monotonic()
        self._next_resync = 0.0
        self._next_report = 0.0
        self._reported = 0.0
        self._happened = True
        self._next_govern = 0.0
        self._next_obey = 0.0
        self._next_guard = 0.0 if self._hands is not None else float("inf")

    def silent_for(self) -> float:
        """Return seconds since the loop last ticked."""
        return time.monotonic() - self._beat

    def stop(self) -> None:
        """End the loop soon; safe in a signal handler."""
        self.stopping = True
        self.news.put(Stop())

    def run(self) -> None:
        """Work until `stopping`, then leave the node in a state the next agent resumes."""
        if self._host is not None:
            cgroups = CgroupListener(self._host.hierarchy, self.news)
            cgroups.start()
            if not cgroups.tells_entries:
                listen_for_execs(self._host.hierarchy, self.news)
        if self._neighbours is not None:
            self._neighbours.start()
        self._resume()
        self._watches.start()
        self._writer.start()
        while not self.stopping:
            for step in (self._wait, self._act, self._govern, self._guard, self._speak):
                try:
                    step()
                except KernelError as error:
                    self._failed(error)
        self._leave()

    def _is_stopping(self) -> bool:
        self._beat = time.monotonic()
        return self.stopping

    def _save(self) -> None:
        save(self._identity.state_path, self._state)

    def _resume(self) -> None:
        """Go on where an earlier agent stopped, API server or not."""
        self._told.resume()
        self._watch_namespaces()
        if self._hands is None or not self._state.touched:
            return
        self._hands.resume(self._told.spec.owner if self._told.spec is not None else None)
        log.info(
            "resumed",
            extra={
                "owner": self._state.owner,
                "processes": self._hands.enrolment.enrolled_count(),
                "generation": self._state.generation,
            },
        )

    def _leave(self) -> None:
        if self._hands is not None:
            self._hands.stop_ksmd()
            if self._state.touched:
                self._save()
        if self._neighbours is not None:
            self._neighbours.close()
        log.info("stopped; nothing was unmerged", extra={"runIsOurs": self._state.run_is_ours})

    def _wait(self) -> None:
        deadline = min(
            *(self._next_resync, self._next_report, self._next_govern, self._next_obey),
            self._next_guard,
        )
        if self._hands is not None:
            deadline = min(deadline, self._hands.attention.next_due())
        if self._neighbours is not None:
            deadline = min(deadline, self._neighbours.due())
        seconds = min(LONGEST_WAIT, max(0.0, deadline - time.monotonic()))
        try:
            news = self.news.get(timeout=max(seconds, 0.001))
        except queue.Empty:
            return
        self._hear(news)
        while True:
            try:
                self._hear(self.news.get_nowait())
            except queue.Empty:
                return

    def _hear(self, news: News) -> None:  # noqa: C901, PLR0912 - one line per kind of news
        match news:
            case Listed() if news.source is self._watches.node:
                for item in news.items:
                    self._hear_node(item)
                if not news.items:
                    log.warning("there is no KSMNode for this node; going on as told last")
            case Listed():
                objects = [one for one in news.items if isinstance(one, ObjectMeta)]
                if news.source is self._watches.pods:
                    self._view.pods_listed(objects)
                elif news.source is self._watches.namespaces:
                    self._view.namespaces_arrived(objects)
            case Changed() | Deleted():
                self._hear_change(news)
            case LookedUp() if (policy := self._told.policy) is not None:
                self._view.namespace_looked_up(
                    news.name, news.labels, policy, self._identity.namespace
                )
            case CgroupAppeared(path) if (placement := container_at(path)) is not None:
                self._view.containers[path] = placement
                if self._hands is not None:
                    self._hands.attention.appeared(path)
            case CgroupVanished(path) if path in self._view.containers:
                self._view.drop_vanished(path)
                if self._hands is not None:
                    self._hands.attention.vanished(path)
                    if path in self._state.containers:
                        self._hands.enrolment.prune()
            case CgroupEntered(path) if self._hands is not None:
                self._hands.attention.glance(path)
                return
            case ForeignSeen() if self._neighbours is not None:
                self._neighbours.hear(news)
            case CgroupsUncertain():
                self._next_resync = 0.0
            case _:
                return
        self._dirty = self._happened = True

    def _hear_change(self, news: Changed | Deleted) -> None:
        item, gone = news.item, isinstance(news, Deleted)
        if isinstance(item, Node):
            if gone:
                log.warning("the KSMNode was deleted; going on as told last")
            else:
                self._hear_node(item)
        elif news.source is self._watches.pods:
            (self._view.pod_deleted if gone else self._view.pod_changed)(item)
        elif news.source is self._watches.namespaces:
            (self._view.namespace_deleted if gone else self._view.namespace_changed)(item)

    def _hear_node(self, node: Node | ObjectMeta) -> None:
        if not isinstance(node, Node) or node.metadata.name != self._identity.node:
            return
        if self._told.is_another(node):
            self._writer.forget()
            if node.status is not None and not self._reporter.conditions:
                self._reporter.conditions = node.status.conditions
        if not self._told.hear(node):
            return
        self._settling_until = time.monotonic() + SETTLING_SECONDS
        self._settled = False
        self._next_govern = 0.0
        self._watch_namespaces()
        if self._hands is not None:
            self._hands.observation.end()
            self._save()

    def _watch_namespaces(self) -> None:
        if self._watches.select_namespaces(self._told.policy):
            self._view.namespaces_reset()

    def _act(self) -> None:
        """Do to the machine what is due."""
        now = self._beat = time.monotonic()
        if self._hands is None or self._host is None:
            self._next_resync = self._next_govern = self._next_obey = float("inf")
            return
        if now >= self._next_resync:
            self._next_resync = now + RESYNC_SECONDS
            self._resync(self._host, self._hands)
        if self._obey(self._hands):
            self._happened = self._happened or self._next_obey != float("inf")
            self._next_obey = float("inf")
        else:
            self._happened = True
            self._next_obey = time.monotonic() + self._hands.patience()

    def _govern(self) -> None:
        if self._hands is not None and time.monotonic() >= self._next_govern:
            self._next_govern = time.monotonic() + self._hands.govern(self._told.spec)

    def _guard(self) -> None:
        if self._hands is not None and time.monotonic() >= self._next_guard:
            self._next_guard = time.monotonic() + self._hands.watch_over(self._told.spec)

    def _speak(self) -> None:
        """Report if that is due."""
        if self._happened:
            self._next_report = min(self._next_report, self._reported + NEWS_REPORT_SECONDS)
        if time.monotonic() >= self._next_report:
            self._happened = False
            self._reported = time.monotonic()
            self._next_report = self._reported + REPORT_SECONDS
            self._report()

    def _failed(self, error: KernelError) -> None:
        self._metrics.errors.labels("loop").inc()
        log.error("a step failed; it is tried again", extra={"error": str(error)}, exc_info=error)
        time.sleep(FAILURE_PAUSE)

    def _resync(self, host: Host, hands: Obedience) -> None:
        self._view.containers = containers(host.hierarchy)
        hands.enrolment.prune()
        hands.look_again()
        if hands.troubles.pending and self._told.policy is not None:
            hands.apply_optional(self._told.policy.ksmd)
        self._dirty = True

    def _look_around(self, hands: Obedience) -> None:
        """See who else merges on this node, and whether ksmd may scan."""
        assert self._neighbours is not None
        listed = self._view.namespaces_listed and self._view.pods_are_listed
        if not listed and time.monotonic() < self._settling_until:
            return  # who belongs to the domain is not known yet
        enrolled = self._state.containers.keys()
        domain = enrolled | set(self._view.to_merge())
        if self._neighbours.follow(domain, set(self._view.containers), self._view.pods, enrolled):
            self._happened = True
        policy = self._told.policy
        wanted = policy.isolation.on_foreign_merging if policy is not None else "Pause"
        if hands.hold(self._neighbours.forbid_scanning(wanted)):
            self._next_govern = 0.0

    def _obey(self, hands: Obedience) -> bool:  # noqa: PLR0911 - each step may end it
        """Bring the machine one step nearer; True when there is nothing left to do."""
        spec = self._told.spec
        if spec is None or self._neighbours is None:
            return True
        policy = spec.policy
        reserve = policy.release_reserve_percent if policy is not None else 10
        if spec.desired_state == "Released" or spec.owner is None or policy is None:
            self._leaving = len(self._state.containers)
            self._view.forget_verdicts()
            self._dirty = True
            self._look_around(hands)
            return hands.give_back(reserve, self._neighbours.others_merge)
        self._judge(policy, hands)
        self._look_around(hands)
        if spec.desired_state == "Observing":
            return self._observe(policy, hands, self._neighbours)
        if not hands.accept(spec.owner, policy.ksmd, self._neighbours.manager):
            if self._state.owner in ("", spec.owner.uid):
                return True
            self._leaving = len(self._state.containers)
            return hands.release(list(self._state.containers), reserve)
        leaving = [
            path
            for path in self._state.containers
            if path in self._view.verdicts and self._view.verdicts[path].leaves
        ]
        self._leaving = len(leaving)
        if not hands.release(leaving, reserve):
            return False
        self._leaving = 0
        return spec.desired_state != "Merging" or self._merge(policy, hands, self._neighbours)

    def _merge(self, policy: NodePolicy, hands: Obedience, neighbours: Neighbours) -> bool:
        if not hands.make_way(policy.ksmd, neighbours.others_merge):
            return False
        hands.enrolment.huge_pages.obey(policy.enrollment.huge_pages)
        done = hands.attention.enrol(self._admitted(), self._pod_of)
        listed = self._view.namespaces_listed and self._view.pods_are_listed
        settled = done and listed and not self._asked
        if settled and not self._settled:
            self._next_resync = min(self._next_resync, time.monotonic() + 1.0)
        # Containers that come later do not make a node that is ready unready.
        self._settled = self._settled or settled
        if self._next_govern == float("inf") and self._state.containers:
            self._next_govern = 0.0
        return True

    def _observe(self, policy: NodePolicy, hands: Obedience, neighbours: Neighbours) -> bool:
        self._leaving = len(self._state.containers)
        if not hands.give_back(policy.release_reserve_percent, neighbours.others_merge):
            return False
        hands.observation.go_on(self._view.to_merge(), policy)
        return True

    def _admitted(self) -> list[str]:
        """Containers to enrol now: nobody new while it is not known yet who of the old leaves."""
        known = self._view.namespaces_listed and not self._asked
        return [path for path in self._view.to_merge() if known or path in self._state.containers]

    def _judge(self, policy: NodePolicy, hands: Obedience) -> None:
        if not self._dirty:
            return
        self._dirty = False
        spec = self._told.spec
        enrolled = {one.pod_uid for one in self._state.containers.values()}
        self._asked = self._view.judge(
            policy,
            self._identity.namespace,
            parse_timestamp(spec.granted_at if spec is not None else None),
            lambda path: self._started_at(path, hands),
            enrolled,
        )
        for name in self._asked:
            self._watches.lookup.ask(name)

    def _started_at(self, path: str, hands: Obedience) -> float | None:
        first = hands.enrolment.oldest(path)
        return self._host.started_at(first) if first is not None and self._host else None

    def _pod_of(self, path: str) -> str:
        return self._view.containers[path].pod_uid

    def _report(self) -> None:
        if self._told.spec is None and not self._told.unknown:
            return
        settling = (
            self._hands is not None
            and not self._settled
            and not self._hands.manager
            and self._told.spec is not None
            and self._told.spec.desired_state == "Merging"
            and time.monotonic() < self._settling_until
        )
        if not settling:
            progress = Progress(
                self._told.spec, self._told.unknown, self._settled, self._leaving, self._neighbours
            )
            self._writer.offer(self._reporter.status(progress))
