"""An agent is killed at every instant of its work in turn, and the next one goes on."""

from collections.abc import Sequence

import pytest

from kernel.agents import WAIT, Agents, attend, release_all
from kernel.conftest import Cgroup, Start, Target
from ksm_operator.agent.enrolment import Enrolment
from ksm_operator.kernel import (
    Hierarchy,
    KernelError,
    KernelFeatures,
    Postponed,
    Process,
    Syscall,
    Tracer,
    Visit,
)
from ksm_operator.kernel.helper_messages import Request
from support import kernel

ITS_OWN = "import ctypes; ctypes.CDLL(None).prctl(67, 1, 0, 0, 0); " + WAIT
SERVICE = ("sh", "-c", "echo ready; read line")
LEAST_INSTANTS = 16


class Killed(BaseException):
    """SIGKILL: nothing of ours runs any more."""


class Life:
    """Ends after so many instants; each call of a process and each write of the record has two."""

    def __init__(self, tracer: Tracer, instants: int) -> None:
        self._tracer = tracer
        self._left = instants

    def instant(self) -> None:
        """One more."""
        self._left -= 1
        if self._left < 0:
            raise Killed

    def call(self, process: Process, calls: Sequence[Syscall]) -> Visit:
        """As `Tracer.call`."""
        self.instant()
        visit = self._tracer.call(process, calls)
        self.instant()
        return visit

    def call_many(self, requests: Sequence[Request]) -> list[Visit | KernelError]:
        """As `Tracer.call_many`."""
        self.instant()
        answers = self._tracer.call_many(requests)
        self.instant()
        return answers


@pytest.fixture
def agents(hierarchy: Hierarchy, prctl: KernelFeatures) -> Agents:
    """One after the other on this machine."""
    return Agents(hierarchy, prctl)


def live(enrolment: Enrolment, path: str, cgroup: Cgroup, late: Target) -> None:
    """All that an agent does to a container, and one more process comes into it meanwhile."""
    attend(enrolment, path)
    cgroup.add(late.pid)
    attend(enrolment, path)
    release_all(enrolment, path)


def test_the_next_agent_tells_what_is_ours(
    agents: Agents, start: Start, tracer: Tracer, cgroup: Cgroup
) -> None:
    """What it took for a program's own wish would merge for ever, in one domain with strangers.

    A process that came into the container from outside is nobody's child there, and beside one that
    asked for merging by itself only the record tells whose doing it is.
    """
    own = start(code=ITS_OWN)
    instants = 0
    survived = False
    while not survived:
        below = cgroup.child(f"c{instants}")
        below.add(own.pid)
        service, late = start(*SERVICE), start(*SERVICE)
        below.add(service.pid)
        path = agents.path(below)
        life = Life(tracer, instants)
        try:
            live(agents.enrolment(life, life.instant), path, below, late)
            survived = True
        except Killed:
            instants += 1

        resumed = agents.enrolment(tracer)
        resumed.prune()
        below.add(late.pid)
        attend(resumed, path)
        where = f"killed after {instants - 1} instants"
        assert kernel.merge_any(service.pid), where
        assert kernel.merge_any(late.pid), where
        release_all(resumed, path)
        assert not kernel.merge_any(service.pid), where
        assert not kernel.merge_any(late.pid), where
        assert kernel.merge_any(own.pid), where
        service.kill()
        late.kill()
    assert instants >= LEAST_INSTANTS


class DiesUnderTheCall:
    """A helper that dies when the process is on its way to make the call by itself."""

    def __init__(self, tracer: Tracer, late: Target) -> None:
        self._tracer = tracer
        self._late = late

    def call_many(self, requests: Sequence[Request]) -> list[Visit | KernelError]:
        """As `Helper.call_many`, whose helper dies under the call of one of them."""
        answers = self._tracer.call_many([one for one in requests if one[0] != self._late.process])
        assert not answers, "what the test is about: it is alone"
        return [Postponed(process.pid, "HelperRestarted") for process, _ in requests]


def test_a_call_that_a_process_makes_after_its_visitor_died_is_ours(
    agents: Agents, start: Start, tracer: Tracer, cgroup: Cgroup
) -> None:
    """The way back that a target carries leads through our call, a moment after we looked."""
    own, late = start(code=ITS_OWN), start(*SERVICE)
    cgroup.add(own.pid)
    path = agents.path(cgroup)
    attend(agents.enrolment(tracer), path)
    cgroup.add(late.pid)

    enrolment = agents.enrolment(DiesUnderTheCall(tracer, late))
    assert enrolment.attend(path, "pod"), "it is tried again"
    tracer.call(late.process, [Syscall("prctl", (67, 1, 0, 0, 0))])

    resumed = agents.enrolment(tracer)
    attend(resumed, path)
    assert resumed.state.containers[path].own == {own.process}
    release_all(resumed, path)
    assert not kernel.merge_any(late.pid)
    assert kernel.merge_any(own.pid)
