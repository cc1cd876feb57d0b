"""Noticing programs as they begin anywhere on the node: the kernel's process connector.

A process that joins a container's cgroup makes no directory, and on cgroup version 2 it may be made
inside (CLONE_INTO_CGROUP), without a write to `cgroup.procs`. But a runtime always ends with an
exec, and the connector (drivers/connector/cn_proc.c) tells of those, to the first network and pid
namespace alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.errors import KernelError, Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterator

CLONE_NEWNET: Final = 0x40000000
NETLINK_CONNECTOR: Final = 11
CN_IDX_PROC: Final = 1
CN_VAL_PROC: Final = 1
PROC_CN_MCAST_LISTEN: Final = 1
PROC_EVENT_NONE: Final = 0
PROC_EVENT_EXEC: Final = 2
NLMSG_DONE: Final = 3
SO_ATTACH_FILTER: Final = 26
SO_RCVBUFFORCE: Final = 33

NLMSG: Final = struct.Struct("=IHHII")
CN_MSG: Final = struct.Struct("=IIIIHH")
EVENT: Final = struct.Struct("=IIQ")
EXEC: Final = struct.Struct("=II")
"""struct nlmsghdr, cn_msg, the head of proc_event, and its exec part: thread and process id."""
WHAT_AT: Final = NLMSG.size + CN_MSG.size

FILTER_STEP: Final = struct.Struct("=HBBI")
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
"""Of classic BPF, linux/bpf_common.h."""
WHOLE: Final = 0xFFFFFFFF

BUFFER_BYTES: Final = 4 << 20
READ_BYTES: Final = 1024
ANSWER_SECONDS: Final = 1.0


class ExecWatch:
    """Tells which processes have begun another program, those of the whole node."""

    def __init__(self) -> None:
        """Start watching.

        Raises:
            Unsupported: the kernel has no process connector (CONFIG_PROC_EVENTS), or does not talk
                to this pid namespace.
            KernelError: not permitted (CAP_NET_ADMIN, before Linux 6.6; CAP_SYS_ADMIN for the
                host's network namespace).
        """
        try:
            with _host_network():
                self._socket = socket.socket(
                    socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, NETLINK_CONNECTOR
                )
        except OSError as error:
            raise Unsupported(f"the process connector cannot be reached: {error}") from error
        try:
            self._listen()
        except OSError as error:
            self._socket.close()
            raise KernelError(f"the process connector does not listen to us: {error}") from error
        except KernelError:
            self._socket.close()
            raise

    def _listen(self) -> None:
        steps = _only_execs()
        buffer = ctypes.create_string_buffer(b"".join(steps))
        program = struct.pack("@HP", len(steps), ctypes.addressof(buffer))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
        with contextlib.suppress(OSError):  # then it overflows sooner, which is told
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        self._socket.bind((0, CN_IDX_PROC))
        wish = struct.pack("=I", PROC_CN_MCAST_LISTEN)
        message = CN_MSG.pack(CN_IDX_PROC, CN_VAL_PROC, 0, 0, len(wish), 0) + wish
        size = NLMSG.size + len(message)
        self._socket.send(NLMSG.pack(size, NLMSG_DONE, 0, 0, 0) + message)
        # It answers whom it talks to, and says nothing to others.
        if not select.select([self._socket], [], [], ANSWER_SECONDS)[0]:
            raise Unsupported("the process connector does not answer: is this the host's pid 1?")

    def fileno(self) -> int:
        """For select(): readable when a program has begun."""
        return self._socket.fileno()

    def read(self) -> set[int] | None:
        """Pids since the last read, without waiting; None if some were lost.

        The processes may have ended, or be others with the same pid.
        """
        found: set[int] = set()
        lost = False
        while True:
            try:
                data = self._socket.recv(READ_BYTES)
            except BlockingIOError:
                return None if lost else found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost = True
                continue
            pid = parse_exec(data)
            if pid is not None:
                found.add(pid)

    def close(self) -> None:
        """Stop watching."""
        self._socket.close()


def parse_exec(data: bytes) -> int | None:
    """The process that a message says has begun another program; None if it says something else."""
    at = WHAT_AT
    if len(data) < at + EVENT.size + EXEC.size:
        return None
    what, _, _ = EVENT.unpack_from(data, at)
    if what != PROC_EVENT_EXEC:
        return None
    pid: int = EXEC.unpack_from(data, at + EVENT.size)[1]
    return pid


def _only_execs() -> list[bytes]:
    """A filter in the kernel: nobody wakes us for the forks and exits of the node."""

    def as_loaded(value: int) -> int:
        # The filter loads words in the network's order, the connector writes them in the machine's.
        return int.from_bytes(struct.pack("=I", value), "big")

    return [
        FILTER_STEP.pack(LOAD_WORD, 0, 0, WHAT_AT),
        FILTER_STEP.pack(JUMP_IF_EQUAL, 1, 0, as_loaded(PROC_EVENT_EXEC)),
        FILTER_STEP.pack(JUMP_IF_EQUAL, 0, 1, as_loaded(PROC_EVENT_NONE)),
        FILTER_STEP.pack(RETURN, 0, 0, WHOLE),
        FILTER_STEP.pack(RETURN, 0, 0, 0),
    ]


@contextlib.contextmanager
def _host_network(proc: Path = Path("/proc")) -> Iterator[None]:
    """Let this thread make sockets of the host's network, whose first process is pid 1."""
    own, hosts = proc / "thread-self/ns/net", proc / "1/ns/net"
    try:
        elsewhere = own.readlink() != hosts.readlink()
    except PermissionError:
        elsewhere = False  # where nobody may look at pid 1, our own network has to do
    if not elsewhere:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(fd: int) -> None:
        if libc.setns(fd, CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"the host's network namespace: {os.strerror(code)}")

    back = os.open(own, os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(hosts, os.O_RDONLY | os.O_CLOEXEC)
        try:
            enter(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            enter(back)
    finally:
        os.close(back)
