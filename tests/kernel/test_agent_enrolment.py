"""The agent's record of who merges because of it, with real processes and real calls."""

import sys

import pytest

from kernel.agents import (
    RUNTIME_INIT,
    WAIT,
    Agents,
    EndsAfterTheCall,
    MakeEnrolment,
    attend,
    release_all,
)
from kernel.conftest import Cgroup, Holders, Start, wait_until
from ksm_operator.agent.admission import NO_HEADROOM
from ksm_operator.kernel import (
    Hierarchy,
    KernelFeatures,
    Tracer,
    find_process,
    is_alive,
    pids,
)
from support import kernel

DROPS_MERGING_ON_EXEC = """
import ctypes, os, sys
print("ready", flush=True)
sys.stdin.readline()
ctypes.CDLL(None).prctl(67, 0, 0, 0, 0)
program = "import sys; print('another program', flush=True); sys.stdin.readline()"
os.execv(sys.executable, [sys.executable, "-u", "-c", program])
"""
"""A process that becomes another program as on those kernels."""


@pytest.fixture
def make_enrolment(hierarchy: Hierarchy, prctl: KernelFeatures) -> MakeEnrolment:
    """An agent's enrolment on this machine, with a tracer of one's choice, and a cgroup's path."""
    agents = Agents(hierarchy, prctl)
    return lambda tracer, cgroup: (agents.enrolment(tracer), agents.path(cgroup))


def test_a_child_of_a_process_that_ended_after_the_call_is_ours(
    start: Start, tracer: Tracer, cgroup: Cgroup, make_enrolment: MakeEnrolment
) -> None:
    """Taken for mergeable before us, it would stay so when everything else is given back."""
    init = start(code=RUNTIME_INIT)
    cgroup.add(init.pid)
    enrolment, path = make_enrolment(EndsAfterTheCall(tracer, init), cgroup)

    attend(enrolment, path)
    wait_until(lambda: not is_alive(init.process), "the first process has ended")
    (child,) = pids(cgroup.directory)
    assert kernel.merge_any(child), "what the test is about: it has inherited"
    attend(enrolment, path)

    container = enrolment.state.containers[path]
    assert container.enrolled == {find_process(child)}
    assert not container.own
    for _ in enrolment.release([path], 0):
        pass
    assert path not in enrolment.state.containers
    assert not kernel.merge_any(child)


def test_one_that_lost_merging_by_its_exec_is_enrolled_again(
    start: Start, tracer: Tracer, cgroup: Cgroup, make_enrolment: MakeEnrolment
) -> None:
    """Linux 6.4 to 6.6 drop it there, so that the runtime's init is enrolled in vain."""
    target = start(code=DROPS_MERGING_ON_EXEC)
    cgroup.add(target.pid)
    enrolment, path = make_enrolment(tracer, cgroup)
    attend(enrolment, path)
    assert kernel.merge_any(target.pid)
    target.tell("go on")
    assert target.line() == "another program"
    assert not kernel.merge_any(target.pid), "what the test is about: it merges no more"

    attend(enrolment, path)

    assert kernel.merge_any(target.pid)
    container = enrolment.state.containers[path]
    assert container.enrolled == {target.process}
    assert not container.own
    release_all(enrolment, path)
    assert not kernel.merge_any(target.pid)


def test_what_asked_for_merging_before_us_is_its_own(
    start: Start, tracer: Tracer, cgroup: Cgroup, make_enrolment: MakeEnrolment
) -> None:
    """A program that merges by itself must go on doing so after the policy is gone."""
    import_first = "import ctypes; ctypes.CDLL(None).prctl(67, 1, 0, 0, 0); "
    own = start(code=import_first + WAIT)
    cgroup.add(own.pid)
    enrolment, path = make_enrolment(tracer, cgroup)

    attend(enrolment, path)

    assert enrolment.state.containers[path].own == {own.process}
    for _ in enrolment.release([path], 0):
        pass
    assert path not in enrolment.state.containers
    assert kernel.merge_any(own.pid)


def test_a_container_at_its_limit_waits_for_room(
    holder: Holders, tracer: Tracer, cgroup: Cgroup, make_enrolment: MakeEnrolment
) -> None:
    """It would gain nothing, and could be killed for what it pays for."""
    home = cgroup.child("pod").child("container")
    target = holder(16, home, "small")
    home.limit(home.usage() + (2 << 20))
    enrolment, path = make_enrolment(tracer, home)

    attend(enrolment, path)
    assert enrolment.skipped_processes({path: None}) == {NO_HEADROOM: 1}
    assert path not in enrolment.state.containers
    assert not kernel.merge_any(target.pid)

    home.limit(64 << 20)
    enrolment.retry_skipped()
    attend(enrolment, path)
    assert enrolment.state.containers[path].enrolled == {target.process}
    for _ in enrolment.release([path], 0):
        pass
    assert path not in enrolment.state.containers


def test_a_container_in_which_nobody_may_merge_leaves_no_record(
    start: Start, tracer: Tracer, cgroup: Cgroup, make_enrolment: MakeEnrolment
) -> None:
    """A record fences the node: one of nothing would keep a next owner out for no reason."""
    locked = start(
        code="""
import ctypes, sys
ctypes.CDLL(None).mlockall(1)
print("ready", flush=True)
sys.stdin.readline()
"""
    )
    cgroup.add(locked.pid)
    enrolment, path = make_enrolment(tracer, cgroup)

    attend(enrolment, path)

    assert not enrolment.state.containers
    assert set(enrolment.seen[path].skipped.values()) == {"LockedMemory"}


def test_a_release_that_is_put_off_half_way_goes_on(
    start: Start, tracer: Tracer, cgroup: Cgroup, make_enrolment: MakeEnrolment
) -> None:
    """The loop does other things in between, and a policy may want its containers back."""
    targets = [start(code=WAIT) for _ in range(3)]
    for target in targets:
        cgroup.add(target.pid)
    enrolment, path = make_enrolment(tracer, cgroup)
    attend(enrolment, path)
    assert all(kernel.merge_any(target.pid) for target in targets)

    steps = enrolment.release([path], 0)
    while all(kernel.merge_any(target.pid) for target in targets):
        next(steps)
    next(steps)
    steps.close()

    still = {target.process for target in targets if kernel.merge_any(target.pid)}
    assert still
    assert enrolment.state.containers[path].enrolled >= still
    for _ in enrolment.release([path], 0):
        pass
    assert not enrolment.state.containers
    assert not any(kernel.merge_any(target.pid) for target in targets)


SHARES_ITS_MEMORY = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
stack = ctypes.create_string_buffer(1 << 16)
top = ctypes.c_void_p((ctypes.addressof(stack) + len(stack)) & ~15)
sleep = ctypes.cast(libc.sleep, ctypes.c_void_p)
CLONE_VM, SIGCHLD = 0x100, 17
child = libc.clone(sleep, top, CLONE_VM | SIGCHLD, ctypes.c_void_p(1000))
print(child, flush=True)
sys.stdin.readline()
os.kill(child, 9)
os.waitpid(child, 0)
print("alone", flush=True)
sys.stdin.readline()
"""


def test_two_with_one_memory_are_both_ours(
    start: Start, tracer: Tracer, cgroup: Cgroup, make_enrolment: MakeEnrolment
) -> None:
    """The second is found merging; taken for its own wish, that would stay after the policy."""
    target = start(code=SHARES_ITS_MEMORY, ready=False)
    child = find_process(int(target.line()))
    for pid in (target.pid, child.pid):
        cgroup.add(pid)
    enrolment, path = make_enrolment(tracer, cgroup)

    attend(enrolment, path)

    container = enrolment.state.containers[path]
    assert container.enrolled == {target.process, child}
    assert not container.own
    target.tell("go on")
    assert target.line() == "alone"
    release_all(enrolment, path)
    assert not kernel.merge_any(target.pid)


LOCKS_LATER = """
import ctypes, os, sys
print("ready", flush=True)
sys.stdin.readline()
if sys.argv[1:] == ["exec"]:
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:-1]])
ctypes.CDLL(None).mlockall(3)
print("locked", flush=True)
sys.stdin.readline()
"""

REAL_TIME_CHILD = """
import os, signal, sys
print("ready", flush=True)
sys.stdin.readline()
child = os.fork()
if not child:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    print(os.getpid(), flush=True)
    signal.pause()
os.waitpid(child, 0)
"""


@pytest.mark.parametrize("how", [(), ("exec",)], ids=["later", "after an exec"])
def test_one_that_locks_its_memory_later_is_let_go(
    how: tuple[str, ...],
    start: Start,
    tracer: Tracer,
    cgroup: Cgroup,
    make_enrolment: MakeEnrolment,
) -> None:
    """It must never wait for a page; that it was enrolled before it said so is no excuse."""
    target = start(sys.executable, "-u", "-c", LOCKS_LATER, *how)
    cgroup.add(target.pid)
    enrolment, path = make_enrolment(tracer, cgroup)
    attend(enrolment, path)
    assert kernel.merge_any(target.pid)
    target.tell("go on")
    if how:
        assert target.line() == "ready"
        target.tell("go on")
    assert target.line() == "locked"

    attend(enrolment, path)

    assert not kernel.merge_any(target.pid)
    assert enrolment.seen[path].skipped == {target.process: "LockedMemory"}
    attend(enrolment, path)
    assert not kernel.merge_any(target.pid)


def test_a_child_that_must_not_merge_is_let_go(
    start: Start, tracer: Tracer, cgroup: Cgroup, make_enrolment: MakeEnrolment
) -> None:
    """Merging is inherited, what excludes a process is not looked at by the kernel."""
    target = start(code=REAL_TIME_CHILD)
    cgroup.add(target.pid)
    enrolment, path = make_enrolment(tracer, cgroup)
    attend(enrolment, path)
    target.tell("go on")
    child = find_process(int(target.line()))
    assert kernel.merge_any(child.pid), "what the test is about: it has inherited"

    attend(enrolment, path)

    assert not kernel.merge_any(child.pid)
    assert enrolment.seen[path].skipped == {child: "RealTime"}
    assert kernel.merge_any(target.pid)
