import copy
import threading
from typing import Any, cast

import pytest

from ksm_operator.controller.cluster import Cluster, ConflictError, NotFoundError, UnreachableError
from ksm_operator.controller.lease import (
    DURATION_SECONDS,
    TRUST_SECONDS,
    Lease,
    LeaseLostError,
)


class Server:
    """One Lease with the API server's optimistic locking; can be cut off."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.reachable = True

    def get(self, path: str) -> dict[str, Any]:
        """Return the Lease."""
        self._answer()
        if self.lease is None:
            raise NotFoundError(404, "NotFound", path, "")
        return copy.deepcopy(self.lease)

    def create(self, _path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Create the Lease."""
        self._answer()
        return self._store(body, 1)

    def replace(self, _path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Replace the Lease if the version is right."""
        self._answer()
        assert self.lease is not None
        version = self.lease["metadata"]["resourceVersion"]
        if body["metadata"]["resourceVersion"] != version:
            raise ConflictError(409, "Conflict", "stale", "")
        return self._store(body, int(version) + 1)

    def _store(self, body: dict[str, Any], version: int) -> dict[str, Any]:
        metadata = {**body["metadata"], "resourceVersion": str(version)}
        self.lease = copy.deepcopy({**body, "metadata": metadata})
        return copy.deepcopy(self.lease)

    def _answer(self) -> None:
        if not self.reachable:
            raise UnreachableError("no route")


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def server() -> Server:
    """A server without a Lease."""
    return Server()


@pytest.fixture
def clock() -> Clock:
    """The clock of every holder."""
    return Clock()


def holder(server: Server, clock: Clock, name: str) -> Lease:
    """One controller's view of the Lease."""
    return Lease(cast("Cluster", server), "ksm-operator", "lease", name, clock)


def test_one_holder_at_a_time(server: Server, clock: Clock) -> None:
    """Two controllers that write would undo each other's hand-overs."""
    first, second = holder(server, clock, "first"), holder(server, clock, "second")
    assert first.try_acquire() is None
    assert second.try_acquire() == "first"
    assert (first.held, second.held) == (True, False)


def test_trust_ends_before_others_may_take_over(server: Server, clock: Clock) -> None:
    """A holder that cannot renew must have stopped writing when the next one begins."""
    first, second = holder(server, clock, "first"), holder(server, clock, "second")
    first.try_acquire()
    second.try_acquire()
    clock.now += TRUST_SECONDS
    assert not first.held
    with pytest.raises(LeaseLostError):
        first.ensure()
    assert second.try_acquire() == "first"
    clock.now += DURATION_SECONDS - TRUST_SECONDS + 0.1
    assert second.try_acquire() is None


def test_renewing_holder_is_not_overtaken(server: Server, clock: Clock) -> None:
    """However long it leads."""
    first, second = holder(server, clock, "first"), holder(server, clock, "second")
    first.try_acquire()
    for _ in range(20):
        clock.now += 3
        first._renew()
        assert second.try_acquire() == "first"
    assert first.held


def test_unreachable_server_is_survived_only_while_trusted(server: Server, clock: Clock) -> None:
    """A short outage is no reason to restart; a long one may have made somebody else leader."""
    first = holder(server, clock, "first")
    first.try_acquire()
    server.reachable = False
    clock.now += TRUST_SECONDS - 1
    first._renew()
    assert first.held
    clock.now += 1
    with pytest.raises(LeaseLostError):
        first._renew()


def test_thawed_holder_notices_its_successor(server: Server, clock: Clock) -> None:
    """It slept through its own expiry and wakes with everything still in its hands."""
    first, second = holder(server, clock, "first"), holder(server, clock, "second")
    first.try_acquire()
    second.try_acquire()
    clock.now += DURATION_SECONDS + 1
    assert second.try_acquire() is None
    assert not first.held
    with pytest.raises(LeaseLostError, match="second holds the Lease now"):
        first._renew()


def test_edited_labels_of_the_lease_are_no_loss(server: Server, clock: Clock) -> None:
    """`kubectl label lease` changes its version and nothing else."""
    first = holder(server, clock, "first")
    first.try_acquire()
    assert server.lease is not None
    server.lease["metadata"]["resourceVersion"] = "77"
    first._renew()
    assert first.held
    clock.now += 3
    first._renew()
    assert server.lease["metadata"]["resourceVersion"] == "78"


def test_released_lease_is_free_at_once(server: Server, clock: Clock) -> None:
    """So that an upgrade does not stop the operator for a quarter of a minute."""
    first, second = holder(server, clock, "first"), holder(server, clock, "second")
    first.try_acquire()
    first.release()
    assert second.try_acquire() is None


def test_uninstallation_takes_over_by_force(server: Server, clock: Clock) -> None:
    """It must not wait for a controller that leads and lives."""
    first, job = holder(server, clock, "first"), holder(server, clock, "job")
    first.try_acquire()
    assert job.try_acquire(force=True) is None
    with pytest.raises(LeaseLostError):
        first._renew()


def test_nobody_leads_right_after_an_uninstallation(server: Server, clock: Clock) -> None:
    """The old Deployment lives some seconds longer and would grant every node again."""
    job, restarted = holder(server, clock, "job"), holder(server, clock, "restarted")
    job.try_acquire(force=True)
    job.leave_held(45)
    assert restarted.try_acquire() == "uninstalled"
    server.lease = None
    assert restarted.try_acquire() is not None
    clock.now += DURATION_SECONDS + 1
    assert restarted.try_acquire() is None


def test_first_controller_creates_a_missing_lease(server: Server, clock: Clock) -> None:
    """Outside of the chart nobody else does."""
    assert holder(server, clock, "first").acquire(threading.Event())


def test_a_lease_made_anew_is_part_of_the_release(server: Server, clock: Clock) -> None:
    """Helm leaves alone what it has not marked, and refuses to install again beside it."""
    lease = Lease(cast("Cluster", server), "ns", "lease", "first", clock, release="mine")
    assert lease.try_acquire() is None
    assert server.lease is not None
    metadata = server.lease["metadata"]
    assert metadata["labels"] == {"app.kubernetes.io/managed-by": "Helm"}
    assert metadata["annotations"] == {
        "meta.helm.sh/release-name": "mine",
        "meta.helm.sh/release-namespace": "ns",
    }
