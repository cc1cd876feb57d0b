"""What the agent and its helper process say to each other: one line of JSON per message."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from ksm_operator.kernel.errors import (
    KernelError,
    Postponed,
    ProcessGone,
    Refused,
    RemoteCallFailed,
    Unsupported,
)
from ksm_operator.kernel.procfs import Process
from ksm_operator.kernel.remote import Syscall, Visit

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

Request = tuple[Process, "Sequence[Syscall]"]
"""A process, and the calls that it shall make in one stop."""

ERRORS: Final = (Postponed, ProcessGone, Refused, RemoteCallFailed, Unsupported, KernelError)
"""What a request may end with; a kind that is not here crosses as the nearest one that is."""

RECEIVE_BYTES: Final = 65536


def encode_requests(requests: Sequence[Request]) -> bytes:
    """One line with all of them."""
    return _line(
        [
            [process.pid, process.start_time, [[c.name, c.arguments, c.seconds] for c in calls]]
            for process, calls in requests
        ]
    )


def decode_requests(line: bytes) -> list[Request]:
    """Read back what `encode_requests` gave.

    Raises:
        ValueError: the line is something else.
    """
    try:
        return [
            (
                Process(pid, start_time),
                [Syscall(name, tuple(arguments), seconds) for name, arguments, seconds in calls],
            )
            for pid, start_time, calls in json.loads(line)
        ]
    except (TypeError, RecursionError) as error:
        raise ValueError(f"not requests: {line[:200]!r}") from error


def encode_answer(answer: Visit | KernelError) -> bytes:
    """One line: what the visit brought, or why there was none."""
    if isinstance(answer, Visit):
        return _line({"visit": asdict(answer)})
    kind = next(kind for kind in ERRORS if isinstance(answer, kind))
    attributes = {
        name: value for name, value in vars(answer).items() if isinstance(value, str | int)
    }
    return _line({"error": kind.__name__, "message": str(answer), "attributes": attributes})


def decode_answer(line: bytes) -> Visit | KernelError:
    """Read back what `encode_answer` gave; an error is of the same kind and says the same.

    Raises:
        ValueError: the line is neither.
    """
    try:
        data = json.loads(line)
        if "visit" in data:
            values: dict[str, Any] = data["visit"]
            return Visit(**(values | {"results": tuple(values["results"])}))
        kinds = {kind.__name__: kind for kind in ERRORS}
        kind: type[KernelError] = kinds[data["error"]]
        # Not through __init__: each kind makes its message from other arguments.
        error = kind.__new__(kind, data["message"])
        vars(error).update(data["attributes"])
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"not an answer: {line[:200]!r}") from error
    return error


def encode_greeting(oom_score_adj: int) -> bytes:
    """The helper's first line: it can work, and this is its oom_score_adj."""
    return _line({"oomScoreAdj": oom_score_adj})


def decode_greeting(line: bytes) -> int:
    """The helper's oom_score_adj, -1000 to 1000.

    Raises:
        KernelError: it cannot work here; the error that it met.
        ValueError: the line is neither.
    """
    try:
        return int(json.loads(line)["oomScoreAdj"])
    except (KeyError, TypeError, RecursionError, OverflowError):
        answer = decode_answer(line)
    if isinstance(answer, KernelError):
        raise answer
    raise ValueError(f"not a greeting: {line[:200]!r}")


def _line(message: Any) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


class LineReader:
    """Reads lines from a connection, each within a time."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""

    def read(self, seconds: float | None = None) -> bytes:
        """The next line; empty at the end of the connection.

        Raises:
            TimeoutError: not within so many seconds.
            OSError: the connection broke.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        while b"\n" not in self._buffer:
            left = None if deadline is None else max(0.001, deadline - time.monotonic())
            self._connection.settimeout(left)
            data = self._connection.recv(RECEIVE_BYTES)
            if not data:
                return b""
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line
