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
from ksm_operator.agent.reconcile import Reconciler
from ksm_operator.agent.reporter import Progress, Reporter
from ksm_operator.agent.schedule import NEVER, Schedule, is_too_early
from ksm_operator.agent.state import State, save
from ksm_operator.agent.told import Told
from ksm_operator.agent.view import View
from ksm_operator.agent.watches import Watches
from ksm_operator.agent.wire import Node, ObjectMeta, Pod
from ksm_operator.agent.writer import StatusWriter
from ksm_operator.kernel import KernelError, must_not_hang

if TYPE_CHECKING:
    from ksm_operator.agent.client import Client
    from ksm_operator.agent.identity import Identity
    from ksm_operator.agent.metrics import Metrics
    from ksm_operator.agent.vigilance import Vigilance

log = logging.getLogger(__name__)

RESYNC_SECONDS: Final = 60.0
LONGEST_WAIT: Final = 5.0
FAILURE_PAUSE: Final = 1.0


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
        self._neighbours = Neighbours(host, self.news) if isinstance(host, Host) else None
        self._schedule = (
            Schedule() if self._hands is not None else Schedule(NEVER, NEVER, NEVER, NEVER)
        )
        self._reconciler = (
            Reconciler(
                self._host,
                self._hands,
                self._neighbours,
                told=self._told,
                state=state,
                view=self._view,
                schedule=self._schedule,
                namespace=identity.namespace,
                ask=self._watches.lookup.ask,
            )
            if self._host is not None and self._hands is not None and self._neighbours is not None
            else None
        )
        self._beat = self._began = time.monotonic()

    def silent_for(self) -> float:
        """Return seconds since the loop last ticked."""
        return time.monotonic() - self._beat

    def stop(self) -> None:
        """End the loop soon; safe in a signal handler."""
        self.stopping = True
        self.news.put(Stop())

    def run(self) -> None:
        """Work until `stopping`, then leave the node in a state the next agent resumes."""
        must_not_hang()
        if self._host is not None:
            failed = self._metrics.errors.labels("watch").inc
            cgroups = CgroupListener(self._host.hierarchy, self.news, failed)
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
        deadline = self._schedule.soonest()
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
                self._told.listed = True
                for item in news.items:
                    self._hear_node(item)
                if not news.items:
                    log.warning("there is no KSMNode for this node; going on as told last")
            case Listed():
                if news.source is self._watches.pods:
                    self._view.pods_listed(one for one in news.items if isinstance(one, Pod))
                elif news.source is self._watches.namespaces:
                    self._view.namespaces_arrived(
                        one for one in news.items if isinstance(one, ObjectMeta)
                    )
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
                self._schedule.resync = 0.0
            case _:
                return
        self._schedule.happened = True
        if self._reconciler is not None:
            self._reconciler.dirty = True

    def _hear_change(self, news: Changed | Deleted) -> None:
        item, gone = news.item, isinstance(news, Deleted)
        if isinstance(item, Node):
            if gone:
                log.warning("the KSMNode was deleted; going on as told last")
            else:
                self._hear_node(item)
        elif isinstance(item, Pod):
            (self._view.pod_deleted if gone else self._view.pod_changed)(item)
        elif news.source is self._watches.namespaces:
            (self._view.namespace_deleted if gone else self._view.namespace_changed)(item)

    def _hear_node(self, node: Node | ObjectMeta) -> None:
        if not isinstance(node, Node) or node.metadata.name != self._identity.node:
            return
        if self._told.is_another(node):
            self._writer.forget()
            if node.status is not None:
                self._reporter.conditions = node.status.conditions
        if not self._told.hear(node):
            return
        self._watch_namespaces()
        if self._hands is not None and self._reconciler is not None:
            self._reconciler.begin_anew()
            self._schedule.govern = 0.0
            self._hands.observation.end()
            self._save()

    def _watch_namespaces(self) -> None:
        if self._watches.select_namespaces(self._told.policy):
            self._view.namespaces_reset()

    def _act(self) -> None:
        """Do to the machine what is due."""
        now = self._beat = time.monotonic()
        if self._hands is None or self._host is None or self._reconciler is None:
            return
        schedule = self._schedule
        if now >= schedule.resync:
            schedule.resync = now + RESYNC_SECONDS
            self._resync(self._host, self._hands)
            self._reconciler.dirty = True
        if self._reconciler.reconcile():
            schedule.happened = schedule.happened or schedule.reconcile != NEVER
            schedule.reconcile = NEVER
        else:
            schedule.happened = True
            schedule.reconcile = time.monotonic() + self._hands.patience()

    def _resync(self, host: Host, hands: Obedience) -> None:
        self._view.containers = containers(host.hierarchy)
        hands.enrolment.prune()
        hands.look_again()
        if hands.troubles.pending and self._told.policy is not None:
            hands.apply_optional(self._told.policy.ksmd)

    def _govern(self) -> None:
        if self._hands is not None and time.monotonic() >= self._schedule.govern:
            self._schedule.govern = time.monotonic() + self._hands.govern(self._told.spec)

    def _guard(self) -> None:
        if self._hands is not None and time.monotonic() >= self._schedule.guard:
            self._schedule.guard = time.monotonic() + self._hands.watch_over()

    def _speak(self) -> None:
        """Report if that is due."""
        if not self._schedule.report_is_due(time.monotonic()):
            return
        reconciler, neighbours = self._reconciler, self._neighbours
        if self._told.spec is None and not self._told.unknown:
            return
        if reconciler is not None and reconciler.is_settling():
            return
        if is_too_early(
            time.monotonic() - self._began,
            listed=self._told.listed,
            looked=neighbours is None or neighbours.looked,
        ):
            return
        progress = Progress(
            self._told.spec,
            self._told.unknown,
            reconciler is not None and reconciler.settled,
            reconciler.leaving if reconciler is not None else 0,
            neighbours,
        )
        self._writer.offer(self._reporter.status(progress))

    def _failed(self, error: KernelError) -> None:
        self._metrics.errors.labels("loop").inc()
        log.error("a step failed; it is tried again", extra={"error": str(error)}, exc_info=error)
        time.sleep(FAILURE_PAUSE)
