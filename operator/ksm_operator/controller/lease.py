"""The Lease gate: one controller writes at a time, and one that lost the Lease never writes again.

Every deadline is on this machine's monotonic clock, so that neither clock jumps nor the clocks of
other machines matter. What a frozen process had in flight is refused by the resourceVersion that
each write carries.
"""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from ksm_operator.controller import log
from ksm_operator.controller.cluster import Cluster, ClusterError, ConflictError, NotFoundError

DURATION_SECONDS: Final = 15
"""How long others wait for a holder that does not renew."""
RENEW_SECONDS: Final = 3.0
"""How often the holder renews, and so how soon one that can reach the API server notices that
somebody else took the Lease."""
_RETRY_SECONDS: Final = 0.5
TRUST_SECONDS: Final = 9.0
"""How long after a renewal began writes may begin: less than `DURATION_SECONDS` by more than the
time that one request may take."""


UNINSTALLED: Final = "uninstalled"
"""The holder after an uninstallation: nobody is there, and nobody shall lead for a while."""


class LeaseLostError(Exception):
    """This process may not write any more."""


class Lease:
    """One holder of a Lease object.

    Args:
        cluster: where the Lease is.
        namespace: of the Lease.
        name: of the Lease.
        identity: who we are; different for every pod.
        clock: seconds on a clock that only moves forward.
        release: of Helm, which a Lease that had to be made anew is marked as part of, or Helm
            would neither take it away nor install again beside it; empty for none.
    """

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        name: str,
        identity: str,
        clock: Callable[[], float] = time.monotonic,
        *,
        release: str = "",
    ) -> None:
        self._cluster = cluster
        self._leases = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._name = name
        self._namespace = namespace
        self.identity = identity
        self._clock = clock
        self._release = release
        self._held: dict[str, Any] | None = None
        self._trusted_until = float("-inf")
        self._seen: tuple[Any, Any] | None = None
        self._seen_at = 0.0
        self._exists = False
        self._missing_at: float | None = None
        self._lock = threading.Lock()

    @property
    def held(self) -> bool:
        """Tell whether this process surely holds the Lease now."""
        return self._held is not None and self._clock() < self._trusted_until

    def ensure(self) -> None:
        """Return only if a write may begin now.

        Raises:
            LeaseLostError: the Lease is not surely held.
        """
        if not self.held:
            raise LeaseLostError(
                f"Lease {self._namespace}/{self._name} is not held by {self.identity}"
            )

    def try_acquire(self, *, force: bool = False) -> str | None:
        """Take the Lease if it is free, was ours, or its holder stopped renewing.

        Args:
            force: take it from a living holder, who notices when it next renews.

        Returns:
            None when it was taken, else who holds it.

        Raises:
            ClusterError: the API server refused or did not answer.
        """
        began = self._clock()
        try:
            lease = self._cluster.get(f"{self._leases}/{self._name}")
        except NotFoundError:
            if not self._may_create():
                return "nobody yet: the Lease was deleted"
            body = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": self._metadata(),
                "spec": self._spec(transitions=0),
            }
            self._hold(self._cluster.create(self._leases, body), began)
            return None
        self._exists, self._missing_at = True, None
        spec = lease.get("spec", {})
        holder = spec.get("holderIdentity") or ""
        if holder not in ("", self.identity) and not force and not self._expired(spec):
            return str(holder)
        lease["spec"] = self._spec(transitions=spec.get("leaseTransitions", 0) + 1)
        self._hold(self._cluster.replace(f"{self._leases}/{self._name}", lease), began)
        return None

    def acquire(self, stop: threading.Event) -> bool:
        """Wait until the Lease is ours; False if `stop` was set before."""
        told = ""
        while not stop.is_set():
            try:
                holder = self.try_acquire()
            except ConflictError:
                continue
            except ClusterError as error:
                log.warning("cannot take the Lease, trying again", error=error)
                holder = told
            else:
                if holder is None:
                    log.info("leading", lease=self._name, identity=self.identity)
                    return True
            if holder != told:
                log.info("standing by", lease=self._name, holder=holder)
                told = holder
            stop.wait(2.0)
        return False

    def keep(self, stop: threading.Event) -> None:
        """Renew until `stop` is set.

        Raises:
            LeaseLostError: another holder took the Lease, or it could not be renewed in time.
        """
        pause = RENEW_SECONDS
        while not stop.wait(pause):
            # A busy API server may not answer once; there is time for another try.
            pause = RENEW_SECONDS if self._renew() else _RETRY_SECONDS

    def _renew(self) -> bool:
        """Renew; False if it has to be tried again at once: it failed, and there is time left."""
        began = self._clock()
        with self._lock:
            if self._held is None:
                return True
            path = f"{self._leases}/{self._name}"
            try:
                renewed = {**self._held, "spec": {**self._held["spec"], "renewTime": _now()}}
                self._hold(self._cluster.replace(path, renewed), began)
            except (ConflictError, NotFoundError) as error:
                self._after_conflict(path, error)
                return False
            except ClusterError as error:
                log.warning("cannot renew the Lease, trying again", error=error)
                if self._clock() >= self._trusted_until:
                    raise LeaseLostError(
                        f"not renewed for {TRUST_SECONDS:.0f} s: {error}"
                    ) from error
                return False
        return True

    def _after_conflict(self, path: str, error: ClusterError) -> None:
        """Go on only if we are still the holder: a person may have edited labels."""
        try:
            present = self._cluster.get(path)
        except NotFoundError as gone:
            self._held = None
            raise LeaseLostError("the Lease was deleted") from gone
        except ClusterError as unknown:
            if self._clock() >= self._trusted_until:
                raise LeaseLostError(
                    f"not renewed for {TRUST_SECONDS:.0f} s: {unknown}"
                ) from unknown
            return
        holder = present.get("spec", {}).get("holderIdentity")
        if holder != self.identity:
            self._held = None
            raise LeaseLostError(f"{holder or 'nobody'} holds the Lease now") from error
        self._held = present

    def release(self) -> None:
        """Give the Lease up, so that the next controller need not wait for it to expire."""
        with self._lock:
            held, self._held = self._held, None
            if held is None:
                return
            spec = {**held["spec"], "holderIdentity": "", "renewTime": _now()}
            try:
                self._cluster.replace(f"{self._leases}/{self._name}", {**held, "spec": spec})
            except ClusterError as error:
                log.warning("cannot give the Lease up; it expires by itself", error=error)

    def leave_held(self, seconds: int) -> None:
        """Keep others from leading for so long although this process ends.

        Raises:
            ClusterError: the API server refused or did not answer.
        """
        with self._lock:
            held, self._held = self._held, None
            if held is not None:
                spec = {
                    **held["spec"],
                    "holderIdentity": UNINSTALLED,
                    "leaseDurationSeconds": seconds,
                    "renewTime": _now(),
                }
                self._cluster.replace(f"{self._leases}/{self._name}", {**held, "spec": spec})

    def _hold(self, lease: dict[str, Any], began: float) -> None:
        self._held = lease
        self._trusted_until = began + TRUST_SECONDS

    def _may_create(self) -> bool:
        """Tell whether a Lease that is not there may be created.

        One that was there a moment ago went with the installation, and this process is next.
        """
        if self._missing_at is None:
            self._missing_at = self._clock()
        return not self._exists or self._clock() - self._missing_at > DURATION_SECONDS

    def _expired(self, spec: dict[str, Any]) -> bool:
        seen = (spec.get("holderIdentity"), spec.get("renewTime"))
        if seen != self._seen:
            self._seen, self._seen_at = seen, self._clock()
        duration = float(spec.get("leaseDurationSeconds") or DURATION_SECONDS)
        if spec.get("holderIdentity") == UNINSTALLED:
            # Nothing to fence against, so the wall clock will do: a new installation need not
            # wait for the whole time again.
            left_at = datetime.fromisoformat(spec["renewTime"])
            return (datetime.now(UTC) - left_at).total_seconds() > duration
        return self._clock() - self._seen_at > duration

    def _metadata(self) -> dict[str, Any]:
        metadata: dict[str, Any] = {"name": self._name, "namespace": self._namespace}
        if self._release:
            metadata["labels"] = {"app.kubernetes.io/managed-by": "Helm"}
            metadata["annotations"] = {
                "meta.helm.sh/release-name": self._release,
                "meta.helm.sh/release-namespace": self._namespace,
            }
        return metadata

    def _spec(self, transitions: int) -> dict[str, Any]:
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": DURATION_SECONDS,
            "acquireTime": _now(),
            "renewTime": _now(),
            "leaseTransitions": transitions,
        }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
