"""Kubernetes Events about policies: what changed, for ``kubectl describe``."""

import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from ksm_operator.api import GROUP, VERSION
from ksm_operator.controller import log
from ksm_operator.controller.cluster import FIELD_MANAGER, Cluster, ClusterError
from ksm_operator.controller.facts import Policy, written

_PATH: Final = "/api/v1/namespaces/default/events"
_REPEAT_SECONDS: Final = 600.0
_MAX_MESSAGE: Final = 1024
_RECOVERED: Final = {
    "Degraded": ("Recovered", "every node does what is asked again"),
    "Conflicted": ("ConflictResolved", "no node is lost to another policy any more"),
    "Isolated": ("Isolated", "no process outside the domain merges any more"),
}


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a person would want to see."""

    kind: Literal["Normal", "Warning"]
    reason: str
    message: str


def transitions(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Event]:
    """Return the Events for the conditions of a policy that changed from one status to the next."""
    known = {item["type"]: item for item in before.get("conditions", ())}
    events = []
    for condition in after.get("conditions", ()):
        kind = condition["type"]
        old = known.get(kind)
        if old is not None and (old["status"], old["reason"]) == (
            condition["status"],
            condition["reason"],
        ):
            continue
        event = _event(kind, condition, old["status"] if old else None)
        if event is not None:
            events.append(event)
    return events


def _event(kind: str, condition: Mapping[str, Any], was: str | None) -> Event | None:
    status, reason, message = condition["status"], condition["reason"], condition["message"]
    if kind == "Ready":
        if status == "True":
            return Event("Normal", "Ready", message)
        # A new policy is never ready at once: that its nodes were granted is told already. And
        # that every node was lost is what Conflicted says.
        known = was in (None, "Unknown") and reason == "NodesNotReady"
        return None if known or reason == "NodesLost" else Event("Normal", reason, message)
    if kind == "Stalled" or (kind in ("Degraded", "Conflicted") and status == "True"):
        return Event("Warning", kind, message)
    if kind == "Isolated" and status == "False":
        return Event("Warning", reason, message)
    if was in (None, "Unknown") or status == "Unknown" or kind not in _RECOVERED:
        return None
    return Event("Normal", *_RECOVERED[kind])


class Recorder:
    """Posts Events; the same one not twice within ten minutes.

    Events of cluster-scoped objects go to namespace `default` with an empty
    involvedObject.namespace: that is where ``kubectl describe`` looks for them.
    """

    def __init__(
        self, cluster: Cluster, identity: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._cluster = cluster
        self._identity = identity
        self._clock = clock
        self._posted: dict[tuple[str, Event], float] = {}
        self._lock = threading.Lock()

    def post(self, policy: Policy, event: Event) -> None:
        """Post an Event about a policy; a failure is logged and nothing more."""
        now = self._clock()
        with self._lock:
            self._posted = {
                key: at for key, at in self._posted.items() if now - at < _REPEAT_SECONDS
            }
            if (policy.uid, event) in self._posted:
                return
            self._posted[policy.uid, event] = now
        try:
            self._cluster.create(_PATH, self._body(policy, event, datetime.now(UTC)))
        except ClusterError as error:
            log.warning("event not posted", policy=policy.name, event=event.reason, error=error)

    def _body(self, policy: Policy, event: Event, now: datetime) -> dict[str, Any]:
        unique = f"{policy.uid}{event}{now.timestamp()}".encode()
        digest = hashlib.sha256(unique).hexdigest()[:16]
        moment = written(now)
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{policy.name[:200]}.{digest}", "namespace": "default"},
            "involvedObject": {
                "apiVersion": f"{GROUP}/{VERSION}",
                "kind": "KSMPolicy",
                "name": policy.name,
                "uid": policy.uid,
                "resourceVersion": policy.resource_version,
            },
            "type": event.kind,
            "reason": event.reason,
            "message": event.message[:_MAX_MESSAGE],
            "firstTimestamp": moment,
            "lastTimestamp": moment,
            "count": 1,
            "source": {"component": FIELD_MANAGER},
            "reportingComponent": FIELD_MANAGER,
            "reportingInstance": self._identity[:128],
        }
