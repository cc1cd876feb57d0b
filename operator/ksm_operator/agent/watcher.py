"""List and watch, for ever: one thread per kind of object."""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import threading
import time
from typing import TYPE_CHECKING, Final

import msgspec

from ksm_operator.agent.client import GONE, ApiError, Client, Resource, Stream
from ksm_operator.agent.default_skips import default_skip
from ksm_operator.agent.news import Changed, Deleted, Listed, LookedUp, News
from ksm_operator.agent.selection import NAME_LABEL
from ksm_operator.agent.wire import Node, ObjectMeta, Partial, Pod, WholePod

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 20.0
ANEW: Final = 4
"""Failures in a row after which the list is fetched anew: a restored server has older versions."""
WATCH_SECONDS: Final = (240, 360)
SHORTEST_WATCH: Final = 1.0
"""A server that ends watches sooner than this is not asked again at once."""

# Made before there are threads: msgspec puts together what it knows of a class when the class is
# first decoded, and another thread that meets it half done dies of a null pointer (0.22).
_NODE: Final = msgspec.json.Decoder(Node)
_PARTIAL: Final = msgspec.json.Decoder(Partial)
_POD: Final = msgspec.json.Decoder(WholePod)


def pause_after(failures: int) -> float:
    """Return seconds to wait after so many failures in a row, jittered."""
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures, 10))
    return random.uniform(longest / 2, longest)  # noqa: S311 - spreads reconnects


class Watcher(threading.Thread):
    """Brings the objects of one resource as news, and what changes in them.

    Attributes:
        resource: what is watched.
        healthy: whether the last request succeeded.
    """

    def __init__(
        self,
        client: Client,
        resource: Resource,
        news: queue.SimpleQueue[News],
        decode: Callable[[msgspec.Raw], Node | ObjectMeta],
    ) -> None:
        super().__init__(name=f"watch {resource.path}", daemon=True)
        self.resource = resource
        self.healthy = True
        self._client = client
        self._news = news
        self._decode = decode
        self._ended = threading.Event()
        self._stream: Stream | None = None
        self._silent = False

    def run(self) -> None:
        """Go on until `end`; a failure is waited out and tells nobody that anything is gone."""
        failures = 0
        version = ""
        while not self._ended.is_set():
            try:
                if not version:
                    version = self._list()
                began = time.monotonic()
                version = self._follow(version)
                if self._silent:
                    version = ""
                if time.monotonic() - began < SHORTEST_WATCH:
                    self._ended.wait(pause_after(0))
                failures = 0
                self.healthy = True
            except ApiError as error:
                if self._ended.is_set():
                    return
                if error.status == GONE:
                    version = ""
                    continue
                level = logging.WARNING if failures == 0 else logging.DEBUG
                log.log(
                    level,
                    "the API server cannot be watched; everything stays as it is",
                    extra={"path": self.resource.path, "error": str(error)},
                )
                self.healthy = False
                self._ended.wait(pause_after(failures))
                failures += 1
                if failures >= ANEW or self._silent:
                    version = ""

    def end(self) -> None:
        """Stop bringing news; returns at once."""
        self._ended.set()
        stream = self._stream
        if stream is not None:
            stream.interrupt()

    def _list(self) -> str:
        items, version = self._client.list(self.resource, self._decoded)
        self._tell(Listed(self, tuple(items)))
        return version

    def _follow(self, version: str) -> str:
        self._silent = False
        stream = self._client.watch(
            self.resource,
            version,
            random.randint(*WATCH_SECONDS),  # noqa: S311 - spreads reconnects
        )
        # A server that was restored from a backup takes a place that it has yet to reach, and says
        # nothing until then, not even in bookmarks.
        self._silent = True
        self._stream = stream
        if self._ended.is_set():
            stream.interrupt()
        self.healthy = True
        for event in stream:
            self._silent = False
            if event.type == "BOOKMARK":
                version = _PARTIAL.decode(event.object).metadata.resource_version
                continue
            item = self._decoded(event.object)
            meta = item.metadata if isinstance(item, Node) else item
            version = meta.resource_version or version
            self._tell(Deleted(self, item) if event.type == "DELETED" else Changed(self, item))
        return version

    def _decoded(self, raw: msgspec.Raw) -> Node | ObjectMeta:
        try:
            return self._decode(raw)
        except msgspec.DecodeError as error:
            raise ApiError(0, f"{self.resource.path}: {error}") from error

    def _tell(self, news: News) -> None:
        if not self._ended.is_set():
            self._news.put(news)


def decode_node(raw: msgspec.Raw) -> Node:
    """Decode a KSMNode."""
    return _NODE.decode(raw)


def decode_metadata(raw: msgspec.Raw) -> ObjectMeta:
    """Decode the metadata of any object."""
    return _PARTIAL.decode(raw).metadata


def decode_pod(raw: msgspec.Raw) -> Pod:
    """Decode a pod, of whose spec and status only what follows from them is kept."""
    pod = _POD.decode(raw)
    return Pod(
        **msgspec.structs.asdict(pod.metadata),
        default_skip=default_skip(pod.spec),
        reported=pod.status is not None and pod.status.start_time is not None,
    )


class Lookup(threading.Thread):
    """Asks the API server about single namespaces, until it answers.

    A namespace that left a selector's list was deleted or relabelled; only the second is a reason
    to release, and only a positive answer tells it.
    """

    def __init__(self, client: Client, news: queue.SimpleQueue[News]) -> None:
        super().__init__(name="look up namespaces", daemon=True)
        self._client = client
        self._news = news
        self._names: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._asked: set[str] = set()

    def ask(self, name: str) -> None:
        """Ask; the answer comes as `LookedUp`. A question that is open already is not repeated."""
        if name not in self._asked:
            self._asked.add(name)
            self._names.put(name)

    def run(self) -> None:
        """Answer questions for ever."""
        failures = 0
        while True:
            name = self._names.get()
            try:
                answer = self._look(name)
            except (ApiError, msgspec.DecodeError) as error:
                log.debug("namespace not looked up", extra={"namespace": name, "error": str(error)})
                threading.Event().wait(pause_after(failures))
                failures += 1
                self._names.put(name)
                continue
            failures = 0
            with contextlib.suppress(KeyError):
                self._asked.remove(name)
            self._news.put(answer)

    def _look(self, name: str) -> LookedUp:
        resource = Resource("/api/v1/namespaces", {"labelSelector": f"{NAME_LABEL}={name}"})
        for found in self._client.list(resource, decode_metadata)[0]:
            if found.name == name:
                return LookedUp(name, found.labels)
        return LookedUp(name, None)
