"""Who is left alone by default, on a real kernel, and what asking for merging changes."""

import os
from collections.abc import Callable, Iterator

import pytest

from kernel.agents import WAIT, Agents, Node, release_all
from kernel.conftest import Cgroup, Start, Target
from ksm_operator.kernel import Hierarchy, KernelFeatures, Tracer
from support import kernel

OPENS_LATER = """
import ctypes, platform, sys
print("ready", flush=True)
sys.stdin.readline()
number = {"x86_64": 323, "aarch64": 282}[platform.machine()]
assert ctypes.CDLL(None).syscall(number, 1) >= 0
print("opened", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def node(
    hierarchy: Hierarchy, prctl: KernelFeatures, tracer: Tracer, cgroup: Cgroup
) -> Iterator[Node]:
    """An agent's hands on one container; all is given back in the end."""
    agents = Agents(hierarchy, prctl)
    made = Node(agents.hands(tracer), agents.path(cgroup))
    yield made
    release_all(made.hands.enrolment, made.path)


@pytest.fixture
def leave_cpu() -> Iterator[Callable[[int], None]]:
    """Take one CPU away from this process, and give it to another one alone.

    So does a kubelet's static CPU manager, by the cpusets of containers.
    """
    before = os.sched_getaffinity(0)
    if len(before) == 1:
        pytest.skip("a machine with one CPU has none to give away")

    def leave(pid: int) -> None:
        os.sched_setaffinity(pid, {max(before)})
        os.sched_setaffinity(0, before - {max(before)})

    yield leave
    os.sched_setaffinity(0, before)


@pytest.fixture
def target(start: Start, cgroup: Cgroup) -> Target:
    """A process in the container."""
    made = start(code=WAIT)
    cgroup.add(made.pid)
    return made


def test_asking_is_obeyed_at_once_and_so_is_not_asking_any_more(
    node: Node, target: Target, leave_cpu: Callable[[int], None]
) -> None:
    """A label is an edit like others: it must not wait for the next look at everybody."""
    consent = node.hands.enrolment.consent
    leave_cpu(target.pid)
    consent.follow(frozenset())
    node.until(lambda: node.skipped() == {"ExclusiveCPUs": 1}, "it is left alone")
    assert not kernel.merge_any(target.pid)

    consent.follow(frozenset({node.path}))
    node.until(lambda: kernel.merge_any(target.pid), "its pod asks")
    assert not node.skipped()

    consent.follow(frozenset())
    assert consent.unwanted == {node.path}, "it is to be released, as all that leaves"
    consent.follow(frozenset({node.path}))
    assert not consent.unwanted, "it asks again before that"


def test_who_gets_cpus_of_its_own_later_is_let_go(
    node: Node, target: Target, leave_cpu: Callable[[int], None]
) -> None:
    """The kubelet takes them away from the others some seconds after the container's start."""
    node.until(lambda: kernel.merge_any(target.pid), "it is enrolled")
    consent = node.hands.enrolment.consent
    consent.follow(frozenset())
    assert not consent.unwanted
    leave_cpu(target.pid)
    consent.follow(frozenset())
    assert consent.unwanted == {node.path}


def test_what_a_young_program_opens_is_seen(node: Node, start: Start, cgroup: Cgroup) -> None:
    """A virtual machine, or who uses userfaultfd, opens what tells it after its first instruction.

    The first one's file cannot be had on every machine; it is found where the second one's is.
    """
    late = start(code=OPENS_LATER)
    cgroup.add(late.pid)
    node.until(lambda: kernel.merge_any(late.pid), "it is enrolled")
    late.tell("go on")
    assert late.line() == "opened"
    node.hands.attention.look_again(lasts=False)
    node.until(lambda: not kernel.merge_any(late.pid), "it is let go")
    assert node.skipped() == {"Userfaultfd": 1}
