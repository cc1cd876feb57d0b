"""``ksm-controller run``: everything wired together."""

import os
import signal
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ksm_operator.controller import facts, log, metrics
from ksm_operator.controller.cluster import (
    KSM_NODES,
    NAMESPACES,
    NODES,
    POLICIES,
    Cluster,
    ClusterError,
    ConflictError,
)
from ksm_operator.controller.daemonset import TemplateError, apply_agent
from ksm_operator.controller.events import Recorder
from ksm_operator.controller.facts import NodeState
from ksm_operator.controller.http import gate, serve
from ksm_operator.controller.lease import Lease, LeaseLostError
from ksm_operator.controller.reconcile import Caches, Reconciler
from ksm_operator.controller.triggers import Trigger, pressing, start_kopf
from ksm_operator.controller.watch import Watched

_RESYNC_SECONDS: Final = 600.0
_FIRST_BACKOFF_SECONDS: Final = 0.5
_MAX_BACKOFF_SECONDS: Final = 30.0
_FIGURES_SHARE: Final = 0.05
"""Of the time, most that is spent on looking at figures alone."""
_FIGURES_SECONDS: Final = 1.0
"""Least time between two looks at them."""
_STUCK_SECONDS: Final = 180.0
"""A reconcile that makes no request for so long, nor comes to its end, hangs."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says.

    Attributes:
        namespace: the operator's own.
        lease: the Lease's name.
        deployment: the controller's Deployment, which owns the agent DaemonSet.
        agent_template: the agent DaemonSet; None applies none, for development.
        http_port: 0 serves nothing.
        open_metrics: /metrics is for everybody.
        release: of Helm, empty for none.
    """

    namespace: str
    lease: str
    deployment: str
    agent_template: Path | None
    http_port: int
    open_metrics: bool = False
    release: str = ""


@dataclass
class _Health:
    """What the probes look at.

    Attributes:
        lease: held by the one that reconciles.
        caches: what is known of the cluster.
        threads: which have to live.
        working_since: when the reconcile under way last went on, None while there is none.
        reconciled: whether one has come to its end.
    """

    lease: Lease
    caches: Caches
    threads: list[threading.Thread] = field(default_factory=list)
    working_since: float | None = None
    reconciled: bool = False

    def progressed(self) -> None:
        """Note that the reconcile under way goes on."""
        self.working_since = time.monotonic()

    def healthy(self) -> str:
        """Return why the process had better be restarted, empty if it works."""
        dead = [thread.name for thread in self.threads if not thread.is_alive()]
        if dead:
            return f"thread {dead[0]} died"
        since = self.working_since
        if since is not None and time.monotonic() - since > _STUCK_SECONDS:
            return f"a reconcile hangs since {time.monotonic() - since:.0f} s"
        return ""

    def ready(self) -> str:
        """Return why nothing is reconciled yet, empty if it is."""
        if not self.lease.held:
            return "standing by: another controller holds the Lease"
        if not _synced(self.caches):
            return "reading the cluster"
        if not self.reconciled:
            return "first reconcile under way"
        return self.healthy()


def identity() -> str:
    """Return a name for this process that no other pod has."""
    return os.environ.get("POD_NAME") or f"{socket.gethostname()}-{os.getpid()}"


def run(options: Options) -> int:
    """Reconcile until SIGTERM or SIGINT; return the exit code."""
    stop = threading.Event()
    trigger = Trigger()

    def ask_to_stop(signum: int, _frame: object) -> None:
        log.info("stopping", signal=signal.Signals(signum).name)
        stop.set()
        trigger.changed()

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, ask_to_stop)
    cluster = Cluster.connect()
    lease = Lease(cluster, options.namespace, options.lease, identity(), release=options.release)

    def changed(_before: object, _after: object) -> None:
        trigger.changed()

    def state_changed(before: NodeState | None, after: NodeState | None) -> None:
        if pressing(before, after):
            trigger.changed()
        else:
            trigger.figures_changed()

    caches = Caches(
        nodes=Watched(cluster, NODES, facts.node, changed, restored=trigger.restored),
        states=Watched(
            cluster, KSM_NODES, facts.node_state, state_changed, restored=trigger.restored
        ),
        namespaces=Watched(
            cluster,
            NAMESPACES,
            facts.namespace,
            changed,
            metadata_only=True,
            restored=trigger.restored,
        ),
    )
    health = _Health(lease, caches)
    if options.http_port:
        guard = None if options.open_metrics else gate(cluster)
        serve(options.http_port, health.healthy, health.ready, guard)
    if not _wait_for_kinds(cluster, stop) or not lease.acquire(stop):
        return 0
    metrics.LEADING.set(1)
    recorder = Recorder(cluster, lease.identity)
    reconciler = Reconciler(
        cluster=cluster,
        lease=lease,
        caches=caches,
        recorder=recorder,
        operator_namespace=options.namespace,
        progressed=health.progressed,
    )
    health.threads += [
        _keep_lease(lease, stop),
        caches.nodes.start(),
        caches.states.start(),
        caches.namespaces.start(),
        start_kopf(trigger, reconciler.known_version),
    ]
    try:
        _work(
            options=options,
            cluster=cluster,
            lease=lease,
            reconciler=reconciler,
            trigger=trigger,
            health=health,
            stop=stop,
        )
    except LeaseLostError as error:
        log.error("leadership lost, stopping at once", error=error)
        return 1
    finally:
        # A process waits at its end for threads that kopf has waiting.
        trigger.close()
    lease.release()
    return 0


def _synced(caches: Caches) -> bool:
    return all(
        watched.synced.is_set() for watched in (caches.nodes, caches.states, caches.namespaces)
    )


def _wait_for_kinds(cluster: Cluster, stop: threading.Event) -> bool:
    """Wait until the API server serves both kinds; False if `stop` was set before."""
    while not stop.is_set():
        try:
            for path in (POLICIES, KSM_NODES):
                next(cluster.pages(path))
        except ClusterError as error:
            log.warning(
                "the CRDs cannot be read yet; if this stays, install them "
                "(chart value crds.install) and check the controller's RBAC",
                error=error,
            )
            stop.wait(3.0)
        else:
            return True
    return False


def _keep_lease(lease: Lease, stop: threading.Event) -> threading.Thread:
    def keep() -> None:
        try:
            lease.keep(stop)
        except LeaseLostError as error:
            log.error("leadership lost, stopping at once", error=error)
            # Nothing may be written from now on: no clean-up, no waiting for other threads.
            os._exit(1)

    thread = threading.Thread(target=keep, name="lease", daemon=True)
    thread.start()
    return thread


def _work(
    *,
    options: Options,
    cluster: Cluster,
    lease: Lease,
    reconciler: Reconciler,
    trigger: Trigger,
    health: _Health,
    stop: threading.Event,
) -> None:
    backoff = 0.0
    resync_at = float("-inf")
    while not stop.is_set():
        if not _synced(health.caches):
            trigger.wait(1.0, 1.0)
            continue
        began = time.monotonic()
        if began >= resync_at:
            resync_at = began + _RESYNC_SECONDS
            trigger.policies_changed()
            if not _apply_agent(options, cluster, lease):
                resync_at = began + max(backoff, 5.0)
        health.progressed()
        due = _once(reconciler, trigger)
        health.working_since = None
        if due is None:
            backoff = min(max(backoff * 2, _FIRST_BACKOFF_SECONDS), _MAX_BACKOFF_SECONDS)
            trigger.policies_changed()
            stop.wait(backoff)
            continue
        backoff = 0.0
        took = time.monotonic() - began
        if not health.reconciled:
            health.reconciled = True
            log.info("first reconcile done", seconds=f"{took:.3f}")
        if due == 0:
            continue
        # Half of the time at most is spent on reconciling, however many agents report.
        stop.wait(min(took, 5.0))
        figures = max(_FIGURES_SECONDS, took / _FIGURES_SHARE)
        trigger.wait(min(due, resync_at - time.monotonic()), figures)


def _once(reconciler: Reconciler, trigger: Trigger) -> float | None:
    """Reconcile; return the seconds after which to do it again anyway, None if it failed.

    0 means that more is left to do.
    """
    try:
        if trigger.take_policies():
            reconciler.read_policies()
        outcome = reconciler.run()
    except ClusterError as error:
        log.warning("reconcile failed, trying again", error=error)
        return None
    except LeaseLostError:
        raise
    except Exception as error:  # noqa: BLE001 - one odd object must not stop the whole operator
        metrics.ERRORS.inc()
        log.error("reconcile failed, trying again; please report this", error=error, trace=True)
        return None
    if outcome.failed:
        log.info("some steps failed, trying again", steps=outcome.failed, taken=outcome.taken)
        if not outcome.taken:
            return None
        # Among thousands of steps some always fail: that is no reason to wait with the others.
        trigger.policies_changed()
    if outcome.left:
        return 0.0
    if outcome.failed:
        return _FIRST_BACKOFF_SECONDS
    return outcome.due if outcome.due is not None else _RESYNC_SECONDS


def _apply_agent(options: Options, cluster: Cluster, lease: Lease) -> bool:
    if options.agent_template is None:
        return True
    try:
        apply_agent(cluster, lease, options.agent_template, options.namespace, options.deployment)
    except ConflictError as error:
        # Its status changes with every agent that comes or goes.
        log.debug("agent DaemonSet changed meanwhile, trying again", error=error)
        return False
    except (ClusterError, TemplateError, OSError) as error:
        metrics.ERRORS.inc()
        log.error(
            "agent DaemonSet not applied, trying again",
            template=options.agent_template,
            deployment=f"{options.namespace}/{options.deployment}",
            error=error,
        )
        return False
    return True
