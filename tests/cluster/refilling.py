"""Pods that write all of their memory anew when told, as garbage collectors do by themselves."""

from collections.abc import Callable, Collection
from typing import Any

from cluster.command import Kubectl, wait_until
from cluster.pods import pod

MIB = 1 << 20
SIZE_BYTES = 40 * MIB
LIMIT_BYTES = 72 * MIB
"""Enough for what one of them is without merging, and not for what it holds and a copy of it."""

REFILL = f"""
import mmap, os, signal
SIZE, PAGE, TEXT = {SIZE_BYTES}, 4096, 32
held = mmap.mmap(-1, SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
held.madvise(mmap.MADV_NOHUGEPAGE)
times = 0
def text(page):
    return (times << 64 | page).to_bytes(TEXT, "big")
def fill(*_):
    global times
    if times and not all(held[at : at + TEXT] == text(at) for at in range(0, SIZE, PAGE)):
        raise SystemExit("it holds what it has not written")
    times += 1
    for at in range(0, SIZE, PAGE):
        held[at : at + TEXT] = text(at)
    print("filled", times, flush=True)
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
signal.signal(signal.SIGUSR1, fill)
fill()
while True:
    signal.pause()
"""
"""A collector's cycle for each SIGUSR1; it ends if its memory is not as it wrote it."""

USAGE = "cat /sys/fs/cgroup/memory.current /sys/fs/cgroup/memory/memory.usage_in_bytes 2>/dev/null"
"""What the container's own cgroup is charged for, of whatever version; one of the two is there."""


LEAST_BYTES = 8 * MIB
"""So much of them is shared at least, and so much of what could be is not."""


def refilling(name: str, namespace: str) -> dict[str, Any]:
    """A pod with that program and a memory limit."""
    made = pod(name, namespace, program=REFILL)
    made["spec"]["containers"][0]["resources"] = {"limits": {"memory": str(LIMIT_BYTES)}}
    return made


class Refilling:
    """Pods with the same memory, of which one is charged for what they share."""

    def __init__(
        self,
        kubectl: Kubectl,
        namespace: str,
        names: Collection[str],
        shared: Callable[[], int],
        *,
        seconds: float,
        poll: float,
    ) -> None:
        """Be ready.

        Args:
            kubectl: the cluster.
            namespace: where they are.
            names: theirs.
            shared: tells how much of their memory is shared now, in bytes.
            seconds: how long anything may take.
            poll: seconds between two looks; longer than the guard's own pauses.
        """
        self._kubectl = kubectl
        self._namespace = namespace
        self._names = names
        self._shared = shared
        self._seconds = seconds
        self._poll = poll

    def wait_until_filled(self) -> None:
        """Wait until each of them has written its memory for the first time."""
        for name in self._names:
            self._wait_until_filled(name, 1)

    def wait_until_shared(self) -> None:
        """Wait until as much is shared as their limits leave room for, and no more."""
        last = 0

        def stays_between() -> bool:
            nonlocal last
            before, last = last, self._shared()
            assert LEAST_BYTES < last < SIZE_BYTES - LEAST_BYTES, f"{last} bytes are shared"
            return abs(last - before) < MIB

        wait_until(stays_between, self._seconds, "the guard has come round", poll=self._poll)

    def refill(self, times: int) -> None:
        """Let each write all its memory anew, for the so many-th time, and see it live."""
        for name in self._payer_first():
            self._kubectl("exec", "-n", self._namespace, name, "--", "sh", "-c", "kill -USR1 1")
            self._wait_until_filled(name, times)

    def _payer_first(self) -> list[str]:
        """Their names, who is charged for more before who is charged for less."""
        return sorted(self._names, key=self._usage, reverse=True)

    def _usage(self, name: str) -> int:
        said = self._kubectl("exec", "-n", self._namespace, name, "--", "sh", "-c", f"{USAGE}; :")
        return int(said.stdout)

    def _wait_until_filled(self, name: str, times: int) -> None:
        def is_filled() -> bool:
            logs = self._kubectl("logs", "-n", self._namespace, name).stdout
            return f"filled {times}" in logs.splitlines()

        wait_until(is_filled, self._seconds, f"{name} has filled its memory {times} times")
        restarts = {
            manifest["metadata"]["name"]: status["restartCount"]
            for manifest in self._kubectl.items("pods", "-n", self._namespace)
            for status in manifest["status"]["containerStatuses"]
        }
        assert restarts[name] == 0
