"""The helper process: it traces, so that neither the agent's end nor its OOM kill ends a visit.

Started by `Helper` with a connection as standard input. It ends by itself when the other end of
that connection is closed, which the kernel does for an agent that dies: after the visit that is
under way, never in the middle of one.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import traceback
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.errors import KernelError
from ksm_operator.kernel.helper_messages import (
    LineReader,
    decode_requests,
    encode_answer,
    encode_greeting,
)
from ksm_operator.kernel.procfs import PROC
from ksm_operator.kernel.tracer import Tracer

if TYPE_CHECKING:
    from pathlib import Path

    from ksm_operator.kernel.helper_messages import Request
    from ksm_operator.kernel.remote import Visit

NAME: Final = "ksm-helper"
NEVER_KILLED: Final = -1000
"""oom_score_adj of a process that the OOM killer passes over (OOM_SCORE_ADJ_MIN)."""


def main() -> None:
    """Serve until the agent is gone."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Whoever ends the agent means the agent; this process ends with it, at a good moment.
        signal.signal(number, signal.SIG_IGN)
    (PROC / "self/comm").write_text(NAME)
    with socket.socket(fileno=0) as connection, contextlib.suppress(ConnectionError):
        try:
            tracer = Tracer()
        except KernelError as error:
            connection.sendall(encode_answer(error))
            return
        connection.sendall(encode_greeting(protect_from_oom_killer()))
        serve(connection, tracer)


def protect_from_oom_killer(own: Path = PROC / "self/oom_score_adj") -> int:
    """Ask to be passed over; returns what we have then.

    Going below what we were started with takes CAP_SYS_RESOURCE (fs/proc/base.c,
    __set_oom_adj). Without -1000 a cgroup with memory.oom.group, as the kubelet sets it on
    cgroup v2, takes this process along when the agent is killed.
    """
    with contextlib.suppress(OSError):
        own.write_text(str(NEVER_KILLED))
    return int(own.read_text())


def serve(connection: socket.socket, tracer: Tracer) -> None:
    """Answer requests in the order in which they come, until the connection ends.

    Raises:
        ConnectionError: it broke; nobody waits for the rest.
    """
    reader = LineReader(connection)
    while line := reader.read():
        for request in decode_requests(line):
            answer = encode_answer(_answer(tracer, request))
            connection.settimeout(None)
            connection.sendall(answer)


def _answer(tracer: Tracer, request: Request) -> Visit | KernelError:
    process, calls = request
    try:
        return tracer.call(process, calls)
    except KernelError as error:
        return error
    except Exception as error:  # noqa: BLE001 - one request must not cost the others theirs
        traceback.print_exc()
        return KernelError(f"process {process.pid}: the helper met a defect: {error!r}")


if __name__ == "__main__":
    main()
