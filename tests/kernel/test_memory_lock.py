"""A process that holds its memory lock, which what /proc tells of its memory is read under."""

import select
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kernel.agents import WAIT
from kernel.conftest import Cgroup, Start, Target, wait_until
from kernel.whole_agent import record, running
from ksm_operator.kernel import (
    Hierarchy,
    KernelFeatures,
    Postponed,
    Tracer,
    enrol,
    must_not_hang,
    read_vmas,
    survey_payers,
)
from ksm_operator.kernel.memory_lock import MEMORY_BUSY, BoundedReads
from support import kernel

HOLDS = """
import ctypes, mmap, sys
libc = ctypes.CDLL(None)
area = mmap.mmap(-1, 8 << 40, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
area[0] = 1  # else the kernel has nothing to go over
libc.prctl(67, 1, 0, 0, 0)
print("ready", flush=True)
sys.stdin.readline()
libc.prctl(67, 0, 0, 0, 0)
print("over", flush=True)
sys.stdin.readline()
"""
"""Switches merging off for a reservation, which the kernel goes over for minutes."""
MOMENT = 2.0


@pytest.fixture
def holding(start: Start, prctl: KernelFeatures) -> Callable[[Cgroup], Target]:
    """Have a process hold its memory lock in a cgroup."""

    def begin(cgroup: Cgroup) -> Target:
        target = start(code=HOLDS)
        cgroup.add(target.pid)
        target.tell("go on")
        assert target.popen.stdout is not None
        if select.select([target.popen.stdout], [], [], MOMENT)[0]:
            pytest.skip("this kernel goes over a reservation quickly")
        return target

    return begin


def readers() -> int:
    """How many threads read for others."""
    return sum(one.name == "memory-reader" for one in threading.enumerate())


def test_a_read_is_given_up_and_others_are_made(
    holding: Callable[[Cgroup], Target], start: Start, cgroup: Cgroup
) -> None:
    """Not one process may decide whether all others are looked at, nor be asked again and again."""
    held, other = holding(cgroup).process, start(code=WAIT).process
    reads, before = BoundedReads(0.1), readers()
    for _ in range(3):
        with pytest.raises(Postponed) as caught:
            reads.make(held.pid, lambda: read_vmas(held))
        assert caught.value.reason == MEMORY_BUSY
        assert reads.make(other.pid, lambda: read_vmas(other))
    assert readers() - before <= 2, "one is left behind, and one is at work"


def test_a_survey_passes_over_it(
    holding: Callable[[Cgroup], Target], start: Start, cgroup: Cgroup
) -> None:
    """Who pays for the others is known all the same, or one process would blind the guard."""
    processes = [holding(cgroup).process, start(code=WAIT).process]
    with ThreadPoolExecutor(1) as threads:
        threads.submit(must_not_hang).result()
        survey = threads.submit(survey_payers, processes).result()
    assert not survey.gone
    assert survey.cost.scanned_bytes


@pytest.mark.usefixtures("ksm_settings")
def test_an_agent_goes_on_beside_one_that_holds_its_lock(  # noqa: PLR0917 - by name
    holding: Callable[[Cgroup], Target],
    start: Start,
    tracer: Tracer,
    cgroup: Cgroup,
    hierarchy: Hierarchy,
    tmp_path: Path,
) -> None:
    """A container of the domain itself must not keep the others of its node from being released."""
    other = start(code=WAIT)
    homes = cgroup.child("one"), cgroup.child("other")
    homes[1].add(other.pid)
    enrol(other.process, tracer)
    held = holding(homes[0])
    record(tmp_path, hierarchy, [(homes[0], held), (homes[1], other)], "Released")
    with running(start, tmp_path):
        wait_until(lambda: not kernel.merge_any(other.pid), "the other one is released")
    assert held.popen.poll() is None
