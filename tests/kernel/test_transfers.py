"""Bulk transfers that a stop cut short are finished, and no result says more than was moved."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from kernel.blind import BlindVisit
from kernel.conftest import Start, Target, wait_until
from ksm_operator.kernel.attached import ThreadUnsuitable

BYTES = 1 << 20

TRANSFER = """
import hashlib, os, socket, sys, threading
def open_pipe():
    read, write = os.pipe()
    return read, write
def open_sockets():
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()
kind, size = sys.argv[1], int(sys.argv[2])
read, write = open_pipe() if kind == "write" else open_sockets()
data = os.urandom(size)
told, tell = os.pipe()
print("ready", flush=True)
if os.fork() == 0:
    os.close(write)
    sys.stdin.readline()
    if kind == "recvfrom":
        socket.socket(fileno=read).sendall(data)
        os._exit(0)
    got = b""
    while part := os.read(read, 1 << 16):
        got += part
    os.write(tell, b"%d" % len(got))
    os._exit(0 if data.startswith(got) else 1)
os.close(read)
os.close(tell)
if kind == "write":
    done = os.write(write, data)
elif kind == "sendto":
    done = socket.socket(fileno=os.dup(write)).send(data)
elif kind == "sendfile":
    source = os.memfd_create("source")
    os.write(source, data)
    done = os.sendfile(write, source, 0, size)
else:
    with socket.socket(fileno=write) as end:
        got = end.recv(size, socket.MSG_WAITALL)
    done = len(got) if got == data else -1
    write = os.dup(0)
os.close(write)
print(done, os.read(told, 20).decode() or done, os.wait()[1], flush=True)
"""
"""One end transfers in one call, the other begins when it is told; both say how much it was."""


def present_call(target: Target) -> Sequence[str]:
    """Number and arguments of the call that it waits in."""
    return Path(f"/proc/{target.pid}/syscall").read_text().split()[:5]


def other_end_is_blocked(target: Target, kind: str) -> bool:
    """It has transferred what it can."""
    numbers = {"write": "1", "sendto": "44", "sendfile": "40", "recvfrom": "45"}
    return present_call(target)[0] == numbers[kind]


@pytest.mark.parametrize("kind", ["write", "sendto", "sendfile"])
@pytest.mark.parametrize("at_once", [True, False], ids=["soon", "late"])
def test_the_result_is_true(start: Start, kind: str, at_once: bool) -> None:  # noqa: FBT001
    """It is the whole where the other end goes on, else what has come there: never more or less."""
    target = start(kind, str(BYTES), code=TRANSFER)
    wait_until(lambda: other_end_is_blocked(target, kind), f"{target.pid} in {kind}")
    target.wait_for_state("S")
    before = present_call(target)
    visit = BlindVisit(target.process, target.pid)
    wait_until(
        lambda: present_call(target)[0] == before[0] and present_call(target) != before,
        "the rest under way",
    )
    if not at_once:
        visit.ended()
    target.tell("go")
    assert (visit.ended() is None) if at_once else isinstance(visit.ended(), ThreadUnsuitable)
    done, arrived, status = map(int, target.line().split())
    assert done == arrived
    assert (done == BYTES) if at_once else (0 < done < BYTES)
    assert status == 0, "the other end got something else"
    assert target.popen.wait(10) == 0


def test_waitall_gets_all(start: Start) -> None:
    """Who asked for all of it has no reason to expect less."""
    target = start("recvfrom", str(BYTES), code=TRANSFER)
    wait_until(lambda: other_end_is_blocked(target, "recvfrom"), f"{target.pid} in recvfrom")
    # Nothing has come yet: the call is made again, and nothing has to be finished.
    assert isinstance(BlindVisit(target.process, target.pid).ended(), ThreadUnsuitable)
    target.tell("go")
    assert target.line() == f"{BYTES} {BYTES} 0"
