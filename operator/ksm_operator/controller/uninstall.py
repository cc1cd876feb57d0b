"""``ksm-controller uninstall``: release every node while the agents that can do it still live."""

import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from ksm_operator.api import FINALIZER, GROUP, VERSION
from ksm_operator.controller import facts, log
from ksm_operator.controller.cluster import (
    KSM_NODES,
    NODES,
    POLICIES,
    Cluster,
    ClusterError,
    ConflictError,
    NotFoundError,
)
from ksm_operator.controller.conditions import shown
from ksm_operator.controller.facts import Node, NodeState, Policy
from ksm_operator.controller.lease import RENEW_SECONDS, TRUST_SECONDS, Lease, LeaseLostError
from ksm_operator.controller.nodes import Action, labelled
from ksm_operator.controller.run import identity
from ksm_operator.controller.status import uninstalled_status
from ksm_operator.controller.steps import Steps
from ksm_operator.controller.watch import Watched

_LEFT_HELD_SECONDS: Final = 45
"""How long no controller may lead after a good end: Helm deletes the Deployment meanwhile."""
_POLL_SECONDS: Final = 1.0
_REPORT_SECONDS: Final = 10.0


def uninstall(
    cluster: Cluster, namespace: str, lease_name: str, timeout: float, release: str = ""
) -> int:
    """Release every node and take the operator's labels, KSMNodes and finalizers away.

    It is the plan in which no policy owns anything, carried out by the same steps as ever.

    Args:
        cluster: where the operator is installed.
        namespace: the operator's own.
        lease_name: of the Lease; it is taken from the running controller, which stops.
        timeout: seconds to wait for the nodes.
        release: of Helm, empty for none.

    Returns:
        0 when every node is as it was, 1 when some did not finish; they are named.
    """
    deadline = time.monotonic() + timeout
    stop = threading.Event()
    lease = Lease(cluster, namespace, lease_name, f"uninstall-{identity()}", release=release)
    if not _take_lease(lease, deadline):
        return 1
    # Until now the old leader trusts its Lease; what it may still grant is released again below.
    settled = time.monotonic() + TRUST_SECONDS
    keeper = threading.Thread(target=_keep, args=(lease, stop), name="lease", daemon=True)
    keeper.start()
    # One that can reach the API server notices by now; the two would undo each other's work.
    time.sleep(RENEW_SECONDS + 1)
    try:
        left = _release(cluster, lease, settled, deadline)
        policies_left = _leave_policies(cluster, lease, released=left is None)
        if left is None and not policies_left:
            lease.leave_held(_LEFT_HELD_SECONDS)
    except (ClusterError, LeaseLostError) as error:
        log.error("uninstall failed; run it again", error=error)
        return 1
    finally:
        stop.set()
        keeper.join()
    if left is not None or policies_left:
        lease.release()
        _explain(left, policies_left)
        return 1
    log.info("every node is as it was before the operator")
    return 0


def _take_lease(lease: Lease, deadline: float) -> bool:
    while True:
        try:
            lease.try_acquire(force=True)
        except ConflictError:
            continue
        except ClusterError as error:
            if time.monotonic() >= deadline:
                log.error("cannot take the Lease; check the job's RBAC", error=error)
                return False
            log.warning("cannot take the Lease, trying again", error=error)
            time.sleep(_POLL_SECONDS)
        else:
            log.info("lease taken, the running controller stops", identity=lease.identity)
            return True


def _keep(lease: Lease, stop: threading.Event) -> None:
    try:
        lease.keep(stop)
    except LeaseLostError as error:
        # The next write notices too, and ends the job.
        log.error("the Lease was taken away from the uninstallation", error=error)


def _release(
    cluster: Cluster, lease: Lease, settled: float, deadline: float
) -> dict[str, str] | None:
    """Walk every node to the end; return those that did not get there, with why, or None."""
    changed = threading.Event()

    def wake(_before: object, _after: object) -> None:
        changed.set()

    nodes = Watched(cluster, NODES, facts.node, wake)
    states = Watched(cluster, KSM_NODES, facts.node_state, wake)
    nodes.start()
    states.start()
    steps = Steps(cluster, lease, nodes, states)
    reported_at = float("-inf")
    while True:
        now = time.monotonic()
        if nodes.synced.is_set() and states.synced.is_set():
            known_nodes, known_states = nodes.snapshot(), states.snapshot()
            is_settled = now >= settled

            def allowed(action: Action, *, last: bool = is_settled) -> bool:
                return last or action.verb not in ("Unlabel", "Delete")

            walked = steps.walk(known_nodes.values(), known_states, {}, datetime.now(UTC), allowed)
            if walked.left:
                changed.set()
            left = _left(nodes.snapshot(), states.snapshot())
            if is_settled and not left:
                return None
            if now - reported_at >= _REPORT_SECONDS:
                reported_at = now
                log.info("releasing", nodes_left=len(left), nodes=shown(list(left)))
        else:
            left = {"": "the cluster's nodes could not be read"}
        if now >= deadline:
            return left
        changed.wait(_POLL_SECONDS)
        changed.clear()
        time.sleep(0.1)


def _left(nodes: Mapping[str, Node], states: Mapping[str, NodeState]) -> dict[str, str]:
    """Return the nodes that are not done, and why; KSMNodes of deleted nodes are not waited for."""
    left = {}
    for name in sorted({*nodes} & {*states}):
        ready = states[name].condition("Ready")
        if not nodes[name].ready:
            left[name] = "the node is not reachable"
        elif ready is None:
            left[name] = "no answer from its agent"
        else:
            left[name] = f"{ready.reason}: {ready.message}"
    remaining = (name for name, node in nodes.items() if labelled(node))
    return {**{name: "still labelled" for name in sorted(remaining) if name not in left}, **left}


def _leave_policies(cluster: Cluster, lease: Lease, *, released: bool) -> list[str]:
    """Leave every policy without our finalizer; return the names of those that keep it.

    Args:
        cluster: where they are.
        lease: asked before every write.
        released: every node is; then the policies' status says that nobody looks after them.
    """
    left = []
    for raw in cluster.items(POLICIES):
        policy = facts.policy(raw)
        try:
            if released:
                policy = _tell_uninstalled(cluster, lease, policy)
            _remove_finalizer(cluster, lease, policy)
        except NotFoundError:
            continue
        except ClusterError as error:
            log.warning("policy not let go", policy=policy.name, error=error)
            left.append(policy.name)
        else:
            log.info("policy let go", policy=policy.name)
    return left


def _tell_uninstalled(cluster: Cluster, lease: Lease, policy: Policy) -> Policy:
    """Replace the status: the last one would go on saying what is no longer so."""
    body = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "KSMPolicy",
        "metadata": {"name": policy.name, "resourceVersion": policy.resource_version},
        "status": uninstalled_status(policy, datetime.now(UTC)),
    }
    lease.ensure()
    return facts.policy(cluster.apply(f"{POLICIES}/{policy.name}/status", body))


def _remove_finalizer(cluster: Cluster, lease: Lease, policy: Policy) -> None:
    if not policy.holds_deletion:
        return
    finalizers = [name for name in policy.finalizers if name != FINALIZER]
    metadata = {"resourceVersion": policy.resource_version, "finalizers": finalizers}
    lease.ensure()
    cluster.merge(f"{POLICIES}/{policy.name}", {"metadata": metadata})


def _explain(left: Mapping[str, str] | None, policies: list[str]) -> None:
    for name, why in (left or {}).items():
        log.error("not released", node=name, reason=why)
    for name in policies:
        log.error("finalizer still there", policy=name)
    log.error(
        "not everything is released; the operator goes on working. Look at the nodes named above "
        "(kubectl describe ksmnode), then run helm uninstall again; with --no-hooks it leaves "
        "them as they are: ksmd stops, and what is merged stays merged until its pods end"
    )
