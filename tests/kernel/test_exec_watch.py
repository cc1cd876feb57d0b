"""Programs that begin are told of, and nothing else wakes anybody."""

import os
import select
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from kernel.conftest import wait_until
from ksm_operator.kernel import ExecWatch, Unsupported

WATCHES_ITS_CHILD = """
import subprocess, time
from ksm_operator.kernel import ExecWatch, KernelError
try:
    watch = ExecWatch()
except KernelError as error:
    print(type(error).__name__)
else:
    child = subprocess.Popen(["true"])
    child.wait()
    print("told" if child.pid in watch.read() else "not told")
"""


@pytest.fixture
def watch() -> ExecWatch:
    """On a kernel with a process connector, which is every distribution's."""
    try:
        return ExecWatch()
    except Unsupported as error:
        pytest.skip(str(error))


def test_programs_that_begin_are_told_of(watch: ExecWatch) -> None:
    """What `kubectl exec` starts shows in no other way on cgroup version 2."""
    seen: set[int] = set()
    forked = os.fork()
    if not forked:
        os._exit(0)
    started = [subprocess.Popen(["true"]) for _ in range(3)]

    def all_told() -> bool:
        select.select([watch], [], [], 1)
        seen.update(watch.read() or ())
        return {one.pid for one in started} <= seen

    wait_until(all_told, "all three are told of")
    os.waitpid(forked, 0)
    for one in started:
        one.wait()
    assert forked not in seen, "a fork is none of a container's beginnings, and there are many"
    watch.close()


def test_lost_ones_are_admitted(watch: ExecWatch) -> None:
    """After a burst every container has to be looked at, which nobody knows who is not told."""
    watch._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for _ in range(60):
        subprocess.run(["true"], check=True)
    assert watch.read() is None
    assert watch.read() is not None
    watch.close()


def test_from_a_pods_own_network() -> None:
    """The kernel tells the host's network alone, and the agent's pod has its own."""
    script = ["unshare", "--net", sys.executable, "-c", WATCHES_ITS_CHILD]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    try:
        Path("/proc/1/ns/net").readlink()
    except PermissionError:  # as where this machine is a guest of somebody's sandbox
        assert done.stdout == "KernelError\n"
    else:
        assert done.stdout == "told\n"
