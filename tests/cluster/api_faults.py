"""What becomes of a client's requests on the way to the API server: rules and faults."""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from cluster.api_proxy import Exchange

CHUNK: Final = 1 << 16
"""Most that is read of a stream at once, bytes."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks.

    Attributes:
        number: counted from 1, in the order of arrival.
        method: of HTTP.
        path: without the query.
        query: the query.
    """

    number: int
    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_watch(self) -> bool:
        """Whether the answer is a stream."""
        return self.query.get("watch") in ("true", "1")

    @property
    def is_list(self) -> bool:
        """Whether it reads a whole kind, or a page of it."""
        return self.method == "GET" and "limit" in self.query and not self.is_watch

    @property
    def is_lease(self) -> bool:
        """Whether it is about whose turn it is, which comes by the clock."""
        return "/leases" in self.path

    @property
    def is_write(self) -> bool:
        """Whether it changes something that people or agents see."""
        return self.method != "GET" and not self.is_lease


class Fault(Protocol):
    """What becomes of a request instead of being passed on."""

    def befall(self, exchange: "Exchange") -> None:
        """Deal with it."""


Rule = Callable[[Request], Fault | None]
"""Chooses a request's fault; None lets it pass."""


def passes(_: Request) -> Fault | None:
    """The rule that leaves everything alone."""
    return None


@dataclass(frozen=True, slots=True)
class Answer:
    """An error as the API server words it, which never heard of the request."""

    code: int
    reason: str = "Injected"
    headers: Mapping[str, str] = field(default_factory=dict)

    def befall(self, exchange: "Exchange") -> None:
        """Answer at once."""
        exchange.answer(self.code, status_body(self.code, self.reason), self.headers)


@dataclass(frozen=True, slots=True)
class Delay:
    """A slow server, or a long way."""

    seconds: float

    def befall(self, exchange: "Exchange") -> None:
        """Pass it on later."""
        exchange.pause(self.seconds)
        exchange.relay()


@dataclass(frozen=True, slots=True)
class Drop:
    """The connection breaks before the request arrives."""

    def befall(self, exchange: "Exchange") -> None:
        """Close."""
        exchange.close()


@dataclass(frozen=True, slots=True)
class CutAfter:
    """It is carried out, and the connection breaks before the client hears of it.

    Attributes:
        between: called in between.
    """

    between: Callable[[], None]

    def befall(self, exchange: "Exchange") -> None:
        """Forward, and close."""
        exchange.forward().read()
        self.between()
        exchange.close()


@dataclass(frozen=True, slots=True)
class Hold:
    """It is on its way, for as long as one likes.

    Attributes:
        arrived: set when it is held.
        until: it goes on when this is set.
    """

    arrived: threading.Event
    until: threading.Event

    def befall(self, exchange: "Exchange") -> None:
        """Wait, and pass it on whether or not the client still waits for it."""
        self.arrived.set()
        exchange.wait_for(self.until)
        exchange.relay()


@dataclass(frozen=True, slots=True)
class CutInLine:
    """A watch that ends in the middle of its first line."""

    def befall(self, exchange: "Exchange") -> None:
        """Send half of what comes first, and close."""
        with exchange.stream() as response:
            chunk = response.read1(CHUNK)
            exchange.send(chunk[: len(chunk) // 2])
            exchange.close()


@dataclass(frozen=True, slots=True)
class Silence:
    """A watch that never says anything: the other end is gone, and nobody tells."""

    def befall(self, exchange: "Exchange") -> None:
        """Swallow everything."""
        with exchange.stream() as response:
            while response.read1(CHUNK):
                pass
            exchange.close()


@dataclass(frozen=True, slots=True)
class Gone:
    """A watch that tells that its beginning is too old to know what came since."""

    def befall(self, exchange: "Exchange") -> None:
        """Send the error as an event, and end in good order."""
        status = json.loads(status_body(HTTPStatus.GONE, "Expired"))
        with exchange.stream():
            exchange.send(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
            exchange.end()


def status_body(code: int, reason: str) -> bytes:
    """An error in the API server's form."""
    status = {
        "apiVersion": "v1",
        "kind": "Status",
        "status": "Failure",
        "message": f"injected by the test: {code}",
        "reason": reason,
        "code": int(code),
    }
    return json.dumps(status).encode()
