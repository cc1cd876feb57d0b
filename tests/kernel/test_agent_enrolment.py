"""The agent's record of who merges because of it, with real processes and real calls."""

from collections.abc import Callable, Sequence

import pytest

from kernel.conftest import Cgroup, Start, Target, wait_until
from ksm_operator.agent.enrolment import Enrolment
from ksm_operator.agent.host import Host, boot_time
from ksm_operator.agent.metrics import Metrics
from ksm_operator.agent.state import State
from ksm_operator.kernel import (
    Hierarchy,
    KsmSysfs,
    Process,
    Syscall,
    Tracer,
    Visit,
    find_process,
    is_alive,
    pids,
    probe,
)
from support import kernel

RUNTIME_INIT = """
import os, signal, sys
print("ready", flush=True)
sys.stdin.readline()
if os.fork():
    os._exit(0)
signal.pause()
"""
"""As a runtime's init does: a child goes on in the container, and its parent ends."""

WAIT = "import sys; print('ready', flush=True); sys.stdin.readline()"


class EndsAfterTheCall:
    """Makes the calls, and then the process forks a child and ends before anybody looks."""

    def __init__(self, tracer: Tracer, target: Target) -> None:
        self.tracer = tracer
        self.target = target

    def call(self, process: Process, calls: Sequence[Syscall]) -> Visit:
        """As `Tracer.call`."""
        visit = self.tracer.call(process, calls)
        if process == self.target.process:
            self.target.tell("go on")
            self.target.popen.wait()
        return visit


MakeEnrolment = Callable[[object, Cgroup], tuple[Enrolment, str]]


@pytest.fixture
def make_enrolment(hierarchy: Hierarchy) -> MakeEnrolment:
    """An agent's enrolment on this machine, with a tracer of one's choice, and a cgroup's path."""

    def make(tracer: object, cgroup: Cgroup) -> tuple[Enrolment, str]:
        host = Host(
            sysfs=KsmSysfs(),
            hierarchy=hierarchy,
            features=probe(),
            tracer=tracer,  # type: ignore[arg-type]
            boot_time=boot_time(),
            ksmd=None,
        )
        path = "/" + str(cgroup.directory.relative_to(hierarchy.mount))
        return Enrolment(host, State("boot"), lambda: None, Metrics("test")), path

    return make


def test_a_child_of_a_process_that_ended_after_the_call_is_ours(
    start: Start, tracer: Tracer, cgroup: Cgroup, make_enrolment: MakeEnrolment
) -> None:
    """Taken for mergeable before us, it would stay so when everything else is given back."""
    init = start(code=RUNTIME_INIT)
    cgroup.add(init.pid)
    enrolment, path = make_enrolment(EndsAfterTheCall(tracer, init), cgroup)

    enrolment.attend(path, "pod")
    wait_until(lambda: not is_alive(init.process), "the first process has ended")
    (child,) = pids(cgroup.directory)
    assert kernel.merge_any(child), "what the test is about: it has inherited"
    enrolment.attend(path, "pod")

    container = enrolment.state.containers[path]
    assert container.enrolled == {find_process(child)}
    assert not container.own
    for _ in enrolment.release([path], 0):
        pass
    assert path not in enrolment.state.containers
    assert not kernel.merge_any(child)


def test_what_asked_for_merging_before_us_is_its_own(
    start: Start, tracer: Tracer, cgroup: Cgroup, make_enrolment: MakeEnrolment
) -> None:
    """A program that merges by itself must go on doing so after the policy is gone."""
    import_first = "import ctypes; ctypes.CDLL(None).prctl(67, 1, 0, 0, 0); "
    own = start(code=import_first + WAIT)
    cgroup.add(own.pid)
    enrolment, path = make_enrolment(tracer, cgroup)

    enrolment.attend(path, "pod")

    assert enrolment.state.containers[path].own == {own.process}
    for _ in enrolment.release([path], 0):
        pass
    assert path not in enrolment.state.containers
    assert kernel.merge_any(own.pid)


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

    enrolment.attend(path, "pod")

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
    enrolment.attend(path, "pod")
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
