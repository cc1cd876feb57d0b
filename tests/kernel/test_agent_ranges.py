"""The agent's record of ranges: what it marked, and what the program had marked itself."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from kernel.agents import RUNTIME_INIT, Agents, EndsAfterTheCall, attend, release_all
from kernel.conftest import Cgroup, Start, wait_until
from kernel.test_madvise import PROGRAM, Program
from ksm_operator.kernel import (
    Hierarchy,
    KernelFeatures,
    Process,
    Range,
    Syscall,
    Tracer,
    Visit,
    find_process,
    is_alive,
    pids,
    read_vmas,
)
from support import kernel

FAMILY = """
import os, signal, subprocess, sys
print("ready", flush=True)
sys.stdin.readline()
forked = os.fork() or signal.pause()
spawned = subprocess.Popen(["sleep", "60"])
print(forked, spawned.pid, flush=True)
sys.stdin.readline()
"""
"""Gets one child that runs its own program, and one that runs another."""


class Killed(BaseException):
    """The agent is gone, in the middle of what it did."""


class KilledAt:
    """Makes calls until the agent is killed, before or after the one of that number."""

    call_many = Tracer.call_many

    def __init__(self, tracer: Tracer, number: int, *, is_made: bool) -> None:
        self.tracer = tracer
        self.left = number
        self.is_made = is_made

    def call(self, process: Process, calls: Sequence[Syscall]) -> Visit:
        """As `Tracer.call`."""
        self.left -= 1
        if self.left == 0 and not self.is_made:
            raise Killed
        visit = self.tracer.call(process, calls)
        if self.left == 0:
            raise Killed
        return visit


@pytest.fixture
def by_ranges(hierarchy: Hierarchy, features: KernelFeatures) -> Agents:
    """Agents of a kernel without the prctl, which this one may be."""
    return Agents(hierarchy, replace(features, method="Madvise"))


@pytest.fixture
def by_prctl(hierarchy: Hierarchy, prctl: KernelFeatures) -> Agents:
    """Agents of this kernel, if it has the prctl."""
    return Agents(hierarchy, prctl)


@pytest.fixture
def program(start: Start, cgroup: Cgroup) -> Program:
    """A target in the container that maps and marks what it is told to."""
    target = start(code=PROGRAM)
    cgroup.add(target.pid)
    return Program(target)


EVERYTHING = Range(0, 1 << 63)


def test_by_ranges_a_process_is_followed_as_it_grows(
    program: Program, tracer: Tracer, cgroup: Cgroup, by_ranges: Agents
) -> None:
    """What it maps later is marked too, what it marked itself is neither touched nor taken."""
    own, first = program.map(4), program.map(4)
    program.mark(own)
    enrolment, path = by_ranges.enrolment(tracer), by_ranges.path(cgroup)
    attend(enrolment, path)
    assert program.marked(first) == first.size
    assert enrolment.state.containers[path].enrolled == {program.process}
    withdrawn = program.map(4)
    attend(enrolment, path)
    assert program.marked(withdrawn) == withdrawn.size
    program.mark(withdrawn, on=False)
    last = program.map(8)
    attend(enrolment, path)
    assert program.marked(last) == last.size
    assert program.marked(withdrawn) == 0

    release_all(enrolment, path)

    assert program.marked(EVERYTHING) == program.marked(own) == own.size


RESERVES = """
import mmap, sys
print("ready", flush=True)
sys.stdin.readline()
area = mmap.mmap(-1, 65 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)
area[0] = 1  # else ksmd passes it over
print("reserved", flush=True)
sys.stdin.readline()
"""


def test_one_that_reserves_much_later_is_enrolled_by_ranges_then(
    start: Start, tracer: Tracer, cgroup: Cgroup, hierarchy: Hierarchy, prctl: KernelFeatures
) -> None:
    """Before 6.18 ksmd would go over all of it; when it was enrolled it was the runtime's init."""
    before_6_18 = Agents(hierarchy, replace(prctl, scan_skips_holes=False))
    enrolment, path = before_6_18.enrolment(tracer), before_6_18.path(cgroup)
    target = start(code=RESERVES)
    cgroup.add(target.pid)
    attend(enrolment, path)
    container = enrolment.state.containers[path]
    assert kernel.merge_any(target.pid)
    assert not container.is_by_ranges(target.process)
    target.tell("go on")
    assert target.line() == "reserved"

    attend(enrolment, path)
    assert not kernel.merge_any(target.pid)
    attend(enrolment, path)

    assert enrolment.state.containers[path].is_by_ranges(target.process)
    attend(enrolment, path)
    assert not kernel.merge_any(target.pid)
    release_all(enrolment, path)


def test_by_ranges_a_process_that_stays_as_it_is_gets_no_visit(
    program: Program, tracer: Tracer, cgroup: Cgroup, by_ranges: Agents
) -> None:
    """Every look at its ranges costs as it has memory, every visit stops it."""
    program.map(4)
    path = by_ranges.path(cgroup)
    attend(by_ranges.enrolment(tracer), path)
    # Another agent looks once at what it took over, and has not seen it so small before.
    quiet = by_ranges.enrolment(tracer)
    quiet.attend(path, "pod")
    visits = KilledAt(tracer, 1, is_made=False)
    quiet._host.tracer = visits  # type: ignore[assignment]
    for _ in range(3):
        quiet.attend(path, "pod")
    assert visits.left == 1
    quiet._host.tracer = tracer  # type: ignore[assignment]
    release_all(quiet, path)
    assert program.marked(EVERYTHING) == 0


def test_by_ranges_the_child_of_a_process_that_ended_is_given_back_too(
    start: Start, tracer: Tracer, cgroup: Cgroup, by_ranges: Agents
) -> None:
    """Fork passes the marks on, and the one whose record tells whose they are may be gone."""
    init = start(code=RUNTIME_INIT)
    cgroup.add(init.pid)
    path = by_ranges.path(cgroup)
    enrolment = by_ranges.enrolment(EndsAfterTheCall(tracer, init))

    attend(enrolment, path)
    wait_until(lambda: not is_alive(init.process), "the first process has ended")
    (pid,) = pids(cgroup.directory)
    assert marked_bytes(pid), "what the test is about: it has inherited"
    attend(enrolment, path)

    assert enrolment.state.containers[path].enrolled == {find_process(pid)}
    release_all(enrolment, path)
    assert marked_bytes(pid) == 0


def test_by_ranges_children_are_found_whether_they_exec_or_not(
    start: Start, tracer: Tracer, cgroup: Cgroup, by_ranges: Agents
) -> None:
    """One has its parent's marks without a visit, the other none; both are ours to give back."""
    parent = start(code=FAMILY)
    cgroup.add(parent.pid)
    enrolment, path = by_ranges.enrolment(tracer), by_ranges.path(cgroup)
    attend(enrolment, path)
    parent.tell("go on")
    forked, spawned = (int(word) for word in parent.line().split())
    waits_in = Path(f"/proc/{spawned}/wchan")
    wait_until(lambda: "nanosleep" in waits_in.read_text(), "exec")
    assert marked_bytes(forked)
    assert not marked_bytes(spawned)

    attend(enrolment, path)

    family = {find_process(pid) for pid in (parent.pid, forked, spawned)}
    assert enrolment.state.containers[path].enrolled == family
    assert marked_bytes(spawned)
    release_all(enrolment, path)
    assert [marked_bytes(one.pid) for one in family] == [0, 0, 0]


def test_by_ranges_another_program_begins_anew(
    start: Start, tracer: Tracer, cgroup: Cgroup, by_ranges: Agents
) -> None:
    """A runtime's init is enrolled before it becomes the container's program."""
    again = "import os, sys; print('ready', flush=True); sys.stdin.readline(); "
    target = start(code=again + f"os.execv(sys.executable, [sys.executable, '-c', {PROGRAM!r}])")
    cgroup.add(target.pid)
    enrolment, path = by_ranges.enrolment(tracer), by_ranges.path(cgroup)
    attend(enrolment, path)
    before = enrolment.state.containers[path].marks[target.process]
    target.tell("exec")
    assert target.line() == "ready"
    program = Program(target)
    own = program.map(4)
    program.mark(own)
    area = program.map(4)

    attend(enrolment, path)

    after = enrolment.state.containers[path].marks[target.process]
    assert after.program != before.program
    assert program.marked(area) == area.size
    release_all(enrolment, path)
    assert program.marked(EVERYTHING) == program.marked(own) == own.size


@pytest.mark.parametrize("is_made", [False, True], ids=["before the call", "after it"])
def test_by_ranges_an_agent_that_is_killed_leaves_nothing_behind(
    program: Program, tracer: Tracer, cgroup: Cgroup, by_ranges: Agents, *, is_made: bool
) -> None:
    """The next one knows at least all that was done, and takes nothing of the program's for it."""
    own, area = program.map(4), program.map(4)
    program.mark(own)
    path = by_ranges.path(cgroup)
    with pytest.raises(Killed):
        by_ranges.enrolment(KilledAt(tracer, 1, is_made=is_made)).attend(path, "pod")
    assert bool(program.marked(area)) == is_made

    release_all(by_ranges.enrolment(tracer), path)

    assert program.marked(EVERYTHING) == program.marked(own) == own.size
    attend(by_ranges.enrolment(tracer), path)
    assert program.marked(area) == area.size


@pytest.mark.parametrize("number", range(1, 6))
def test_an_agent_that_is_killed_while_it_releases_brings_own_marks_back(
    program: Program, tracer: Tracer, cgroup: Cgroup, by_prctl: Agents, number: int
) -> None:
    """Between the prctl and the marks there is a moment without them; the record bridges it."""
    own, area = program.map(4), program.map(4)
    program.mark(own)
    path = by_prctl.path(cgroup)
    attend(by_prctl.enrolment(tracer), path)
    assert program.marked(area) == area.size
    enrolment = by_prctl.enrolment(KilledAt(tracer, number, is_made=True))
    try:
        for _ in enrolment.release([path], 0):
            pass
    except Killed:
        release_all(by_prctl.enrolment(tracer), path)

    assert program.marked(EVERYTHING) == program.marked(own) == own.size
    assert not kernel.merge_any(program.process.pid)


def test_what_a_program_marked_itself_comes_back_after_the_prctl(
    program: Program, tracer: Tracer, cgroup: Cgroup, by_prctl: Agents
) -> None:
    """It is enrolled with the rest; afterwards it merges exactly where it asked to."""
    own, plain = program.map(4), program.map(4)
    program.mark(own)
    enrolment, path = by_prctl.enrolment(tracer), by_prctl.path(cgroup)

    attend(enrolment, path)
    attend(enrolment, path)

    container = enrolment.state.containers[path]
    assert container.enrolled == {program.process}
    assert container.marks[program.process].own == (own,)
    assert program.marked(plain) == plain.size
    release_all(enrolment, path)
    assert program.marked(EVERYTHING) == program.marked(own) == own.size


def marked_bytes(pid: int) -> int:
    """Bytes of a process that are mergeable."""
    return sum(vma.size for vma in read_vmas(find_process(pid)) if vma.is_mergeable)
