"""A watched list: every object of one kind, kept current by a thread.

What cannot be listed is not known, and so nothing follows from it: only a list that came through
whole, or a DELETED event, takes an object away.
"""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, Generic, Protocol, TypeVar

from ksm_operator.controller import log, metrics
from ksm_operator.controller.cluster import (
    Cluster,
    ClusterError,
    GoneError,
    UnreachableError,
    refusal,
)

_FIRST_BACKOFF_SECONDS: Final = 0.5
_MAX_BACKOFF_SECONDS: Final = 30.0
_SHORTEST_WATCH_SECONDS: Final = 1.0
"""A server that ends watches sooner is not asked again at once."""


class Versioned(Protocol):
    """What the cache must know of an object."""

    @property
    def name(self) -> str:
        """Its name, unique within the kind: all watched kinds are cluster-scoped."""

    @property
    def resource_version(self) -> str:
        """Its version."""


T = TypeVar("T", bound=Versioned)


class Watched(Generic[T]):
    """The objects of one cluster-scoped kind.

    Args:
        cluster: where they are.
        path: of the kind's list.
        decode: keeps of an object what is needed.
        changed: told what an object was and what it is, None for nothing, after every change of
            what is kept of it, and once when the list is there; must not block.
        metadata_only: ask for metadata alone.
        restored: called when the API server turns out to be older than what it said before.
    """

    def __init__(
        self,
        cluster: Cluster,
        path: str,
        decode: Callable[[dict[str, Any]], T],
        changed: Callable[[T | None, T | None], None],
        *,
        metadata_only: bool = False,
        restored: Callable[[], None] = lambda: None,
    ) -> None:
        self._cluster = cluster
        self._path = path
        self._kind = path.rsplit("/", 1)[1]
        self._decode = decode
        self._changed = changed
        self._metadata_only = metadata_only
        self._restored = restored
        self._lock = threading.Lock()
        self._objects: dict[str, T] = {}
        self._seen = ""
        self._heard = False
        self.synced = threading.Event()

    def start(self) -> threading.Thread:
        """Watch for as long as the process lives."""
        thread = threading.Thread(target=self._run, name=f"watch-{self._kind}", daemon=True)
        thread.start()
        return thread

    def snapshot(self) -> dict[str, T]:
        """Return the objects by name, as they are known now."""
        with self._lock:
            return dict(self._objects)

    def learn(self, raw: dict[str, Any]) -> None:
        """Take in what the API server answered to a write, before the watch brings it."""
        self._put(self._decode(raw))

    def forget(self, known: T) -> None:
        """Take away an object whose deletion the API server confirmed."""
        with self._lock:
            present = self._objects.get(known.name)
            if present is not None and present.resource_version == known.resource_version:
                del self._objects[known.name]

    def _put(self, value: T) -> T | None:
        """Take in an object unless a newer one is known; return the one known before."""
        with self._lock:
            present = self._objects.get(value.name)
            if present is None or not _older(value.resource_version, present.resource_version):
                self._objects[value.name] = value
            return present

    def _drop(self, name: str, version: str) -> T | None:
        """Take away what was deleted, but not what was created under its name since."""
        with self._lock:
            present = self._objects.get(name)
            if present is not None and not _older(version, present.resource_version):
                return self._objects.pop(name)
            return None

    def _run(self) -> None:
        backoff = _FIRST_BACKOFF_SECONDS
        version = ""
        while True:
            began = time.monotonic()
            self._heard = False
            try:
                if not version:
                    version = self._list()
                    self.synced.set()
                    self._changed(None, None)
                version = self._follow(version)
                if not self._heard:
                    # Not even a bookmark came: a server that was restored from a backup is silent
                    # up to where we were, and ends such a watch in good order.
                    version = ""
                backoff = _FIRST_BACKOFF_SECONDS
                if time.monotonic() - began >= _SHORTEST_WATCH_SECONDS:
                    continue
            except ClusterError as error:
                # Nor is our place worth anything to a server that refuses it, or that says nothing.
                heard = self._heard and isinstance(error, UnreachableError)
                version = self._seen if heard else ""
                if self._heard or time.monotonic() - began > _MAX_BACKOFF_SECONDS:
                    # It worked: this is a new failure, not the old one still.
                    backoff = _FIRST_BACKOFF_SECONDS
                say = log.debug if isinstance(error, GoneError) else log.warning
                say("watch failed, trying again", path=self._path, error=error)
                metrics.WATCH_FAILURES.labels(self._kind).inc()
            time.sleep(backoff * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            backoff = min(backoff * 2, _MAX_BACKOFF_SECONDS)

    def _list(self) -> str:
        found: dict[str, T] = {}
        version = ""
        for page in self._cluster.pages(self._path, metadata_only=self._metadata_only):
            version = page["metadata"]["resourceVersion"]
            for item in page["items"]:
                value = self._decode(item)
                found[value.name] = value
        with self._lock:
            # Lists are consistent, so one that is older than the last news comes from a restored
            # etcd, and nothing from before it is to be believed.
            restored = _older(version, self._seen)
            newer = {
                name: present
                for name, present in self._objects.items()
                if not restored and _older(version, present.resource_version)
            }
            self._objects, self._seen = {**found, **newer}, version
        if restored:
            log.warning("the API server is older than what it said before", path=self._path)
            self._restored()
        return version

    def _follow(self, version: str) -> str:
        for event in self._cluster.watch(self._path, version, metadata_only=self._metadata_only):
            kind, item = event["type"], event["object"]
            if kind == "ERROR":
                raise refusal(item.get("code", 500), item, f"watch of {self._path}")
            version = item["metadata"]["resourceVersion"]
            if _older(version, self._seen):
                raise GoneError(410, "Expired", f"watch of {self._path} went back in time", "")
            self._seen = version
            self._heard = True
            if kind == "BOOKMARK":
                continue
            if kind == "DELETED":
                gone = self._drop(item["metadata"]["name"], version)
                if gone is not None:
                    self._changed(gone, None)
                continue
            value = self._decode(item)
            before = self._put(value)
            # A kubelet's heartbeat is a new version of a node, and no news. Neither is what the
            # API server answered to our own write.
            if before is None or _differs(before, value):
                self._changed(before, value)
        return version


def _differs(one: Versioned, other: Versioned) -> bool:
    """Tell whether more than the version differs, of what is kept."""
    return bool(replace(one, resource_version=other.resource_version) != other)  # type: ignore[type-var] # every fact is a dataclass


def _older(version: str, other: str) -> bool:
    """Tell whether one resource version is older than the other.

    Resource versions of one kind are ordered decimal numbers (guaranteed since Kubernetes 1.35,
    so since ever in practice); any other form is never older.
    """
    return version.isdecimal() and other.isdecimal() and int(version) < int(other)
