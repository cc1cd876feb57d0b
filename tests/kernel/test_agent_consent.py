"""Who is left alone by default, on a real kernel, and what asking for merging changes."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kernel.agents import WAIT, Node, one_container
from kernel.conftest import Cgroup, Start, Target, wait_until
from ksm_operator.kernel import Hierarchy, KernelFeatures, Tracer, find_process
from support import kernel

OPENS_LATER = """
import sys
print("ready", flush=True)
sys.stdin.readline()
import ctypes, platform
number = {"x86_64": 323, "aarch64": 282}[platform.machine()]
assert ctypes.CDLL(None).syscall(number, 1) >= 0
print("opened", flush=True)
sys.stdin.readline()
"""


STARTS_ANOTHER = """
import subprocess, sys
print("ready", flush=True)
program = sys.stdin.readline().strip()
with subprocess.Popen([program, "1", "salt"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as one:
    one.stdout.readline()
    print(one.pid, flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def node(
    hierarchy: Hierarchy, prctl: KernelFeatures, tracer: Tracer, cgroup: Cgroup
) -> Iterator[Node]:
    """An agent's hands on one container; all is given back in the end."""
    with one_container(hierarchy, prctl, tracer, cgroup) as made:
        yield made


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
    consent.follow(frozenset(), {node.path})
    node.until(lambda: node.skipped() == {"ExclusiveCPUs": 1}, "it is left alone")
    assert not kernel.merge_any(target.pid)

    asked = frozenset({node.path})
    consent.follow(asked, set())
    node.until(lambda: kernel.merge_any(target.pid), "its pod asks")
    assert not node.skipped()

    consent.follow(frozenset(), {node.path})
    assert consent.unwanted == {node.path: {target.process}}, "it is to be released"
    consent.follow(asked, set())
    assert not consent.unwanted, "it asks again before that"
    consent.follow(frozenset(), set())
    assert not consent.unwanted, "that nothing is known of its pod is no answer"
    assert consent.asks(node.path)


def test_who_gets_cpus_of_its_own_later_is_let_go(
    node: Node, target: Target, leave_cpu: Callable[[int], None]
) -> None:
    """The kubelet takes them away from the others some seconds after the container's start."""
    node.until(lambda: kernel.merge_any(target.pid), "it is enrolled")
    consent = node.hands.enrolment.consent
    consent.follow(frozenset(), {node.path})
    assert not consent.unwanted
    # One that is freed at the same moment is no reason to overlook it.
    consent.shared = (consent.shared | {1000}) - {min(consent.shared)}
    leave_cpu(target.pid)
    consent.follow(frozenset(), {node.path})
    assert consent.unwanted == {node.path: {target.process}}
    os.sched_setaffinity(0, os.sched_getaffinity(target.pid))
    consent.follow(frozenset(), {node.path})
    assert not consent.unwanted, "it is everybody's again"


def test_one_that_is_left_alone_goes_and_the_others_stay(
    node: Node, start: Start, cgroup: Cgroup, sentry: Path
) -> None:
    """A sandbox or virtual machine inherits merging from the service that starts it."""
    parent = start(code=STARTS_ANOTHER)
    cgroup.add(parent.pid)
    node.until(lambda: kernel.merge_any(parent.pid), "the service is enrolled")
    parent.tell(str(sentry))
    child = find_process(int(parent.line()))
    wait_until(
        lambda: bool(kernel.merge_any(child.pid)), "what the test is about: it has inherited"
    )
    consent, containers = node.hands.enrolment.consent, node.hands.state.containers

    def is_let_go() -> bool:
        consent.follow(frozenset(), {node.path})
        node.hands.departure.step(consent.unwanted, 0, consent.unwanted)
        return not kernel.merge_any(child.pid)

    node.hands.attention.look_again(lasts=False)
    node.until(is_let_go, "the sandbox is let go")
    assert kernel.merge_any(parent.pid)
    assert containers[node.path].enrolled == {parent.process}
    assert node.skipped() == {"Sandboxed": 1}
    for _ in range(3):
        node.hands.look_again()
        node.hands.attention.enrol([node.path], lambda _: "pod")
        consent.follow(frozenset(), {node.path})
        assert not consent.unwanted, "once is enough"
    assert node.skipped() == {"Sandboxed": 1}
    assert kernel.merge_any(parent.pid)


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
