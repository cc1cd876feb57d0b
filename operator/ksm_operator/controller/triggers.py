"""Something changed: kopf tells of KSMPolicies, and one reconcile sees all that happened since.

kopf is used for nothing but that. It keeps no state in annotations, adds no finalizer, posts no
Events and elects nobody: see docs/design/controller.md.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any, Final, cast

import kopf

from ksm_operator.api import GROUP, VERSION
from ksm_operator.controller import log
from ksm_operator.controller.cluster import FIELD_MANAGER
from ksm_operator.controller.facts import NodeState

_QUIET_SECONDS: Final = 0.2
_PAUSE_SECONDS: Final = 5.0


class Trigger:
    """What has to be looked at again. Safe to use from several threads.

    Args:
        clock: seconds on a clock that only moves forward.

    Attributes:
        anew: set when policies have to be watched anew.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.anew = threading.Event()
        self._clock = clock
        self._condition = threading.Condition()
        self._pressing = False
        self._figures = False
        self._policies = True
        self._closed = False

    def changed(self) -> None:
        """Say that something changed that has to be acted on."""
        with self._condition:
            self._pressing = True
            self._condition.notify()

    def figures_changed(self) -> None:
        """Say that something changed that people only read."""
        with self._condition:
            self._figures = True
            self._condition.notify()

    def policies_changed(self) -> None:
        """Say that policies changed, so that they are read again."""
        with self._condition:
            self._policies = True
        self.changed()

    def restored(self) -> None:
        """Say that the API server is older than what it said before.

        A watch that goes on from then hears nothing, and nobody tells it.
        """
        self.policies_changed()
        self.anew.set()

    def close(self) -> None:
        """Say that policies need not be watched any more: the process is about to end."""
        with self._condition:
            self._closed = True
            self.anew.set()

    def begin_anew(self) -> bool:
        """Tell whether policies are to be watched; what told to do so anew is forgotten."""
        with self._condition:
            if not self._closed:
                self.anew.clear()
            return not self._closed

    def wait(self, seconds: float, figures: float) -> None:
        """Wait for a change, and then until the first flood of them is over.

        Args:
            seconds: at most so long.
            figures: at most so long once nothing but figures changed.
        """
        began = self._clock()
        with self._condition:
            while not self._pressing:
                most = min(seconds, figures) if self._figures else seconds
                left = began + most - self._clock()
                if left <= 0:
                    break
                self._condition.wait(left)
            flood = self._pressing
        if flood:
            time.sleep(_QUIET_SECONDS)
        with self._condition:
            self._pressing = self._figures = False

    def take_policies(self) -> bool:
        """Tell whether policies have to be read again, and forget it."""
        with self._condition:
            taken, self._policies = self._policies, False
            return taken


def pressing(before: NodeState | None, after: NodeState | None) -> bool:
    """Tell whether a KSMNode says something new that has to be acted on, and not only figures."""
    return before is None or after is None or _acted_on(before) != _acted_on(after)


def _acted_on(state: NodeState) -> object:
    status = state.status
    judged = [
        (one.type, one.status, one.reason, one.observed_generation) for one in status.conditions
    ]
    known = (state.uid, state.generation, state.deleting, state.node_uid)
    return (known, status.observed_generation, state.enrolled_uid, judged)


def start_kopf(trigger: Trigger, known_version: Callable[[str], str | None]) -> threading.Thread:
    """Watch KSMPolicies with kopf, in a thread with an event loop of its own.

    Args:
        trigger: told of every change.
        known_version: policy name to the resourceVersion that is known already, so that the
            controller's own writes do not wake it.
    """
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**arguments: Any) -> kopf.ConnectionInfo | None:
        # Not login_with_service_account: that one asks DNS for the API server, and a cluster's DNS
        # may be down, or not there at all.
        return kopf.login_via_client(**arguments)

    @kopf.on.event(GROUP, VERSION, "ksmpolicies", registry=registry)
    async def changed(name: str, meta: kopf.Meta, type: str | None, **_: Any) -> None:  # noqa: A002 - kopf calls by this name
        if type == "DELETED" or known_version(name) != meta.get("resourceVersion"):
            trigger.policies_changed()

    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.watching.chunk_size = 500
    settings.watching.server_timeout = 290
    settings.watching.connect_timeout = 10
    # A server that ends every watch is not to be asked forty times a second.
    settings.watching.reconnect_backoff = 2.0
    settings.persistence.finalizer = f"{GROUP}/unused"
    settings.posting.reporting_component = FIELD_MANAGER

    async def operate() -> None:
        try:
            await kopf.operator(
                registry=registry,
                settings=settings,
                standalone=True,
                clusterwide=True,
                # Left out, kopf asks for the user's name, which the container's uid has none of.
                identity=cast("Any", FIELD_MANAGER),
                stop_flag=trigger.anew,
            )
        finally:
            # kopf has a thread wait for it, and a loop waits for its threads.
            trigger.anew.set()

    def run() -> None:
        while trigger.begin_anew():
            try:
                asyncio.run(operate())
            except Exception as error:  # noqa: BLE001 - kopf gives up on errors that pass
                log.warning("policies are not watched, trying again", error=error)
            # Something may have changed while nobody watched.
            trigger.policies_changed()
            time.sleep(_PAUSE_SECONDS)

    thread = threading.Thread(target=run, name="kopf", daemon=True)
    thread.start()
    return thread
