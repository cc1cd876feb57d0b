"""Agents of this machine, as far as they change processes and remember it."""

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kernel.conftest import Cgroup, Target, wait_until
from ksm_operator.agent.enrolment import Enrolment
from ksm_operator.agent.host import Host, boot_time
from ksm_operator.agent.metrics import Metrics
from ksm_operator.agent.obey import Obedience
from ksm_operator.agent.state import State
from ksm_operator.kernel import Hierarchy, KernelFeatures, KsmSysfs, Process, Syscall, Tracer, Visit

WAIT = "import sys; print('ready', flush=True); sys.stdin.readline()"


RUNTIME_INIT = """
import os, signal, sys
print("ready", flush=True)
sys.stdin.readline()
if os.fork():
    os._exit(0)
signal.pause()
"""
"""As a runtime's init does: a child goes on in the container, and its parent ends."""


class EndsAfterTheCall:
    """Makes the calls, and then the process forks a child and ends before anybody looks."""

    call_many = Tracer.call_many

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


class Agents:
    """Agents of this machine, one after the other, and the record that they leave on disk."""

    def __init__(self, hierarchy: Hierarchy, features: KernelFeatures) -> None:
        self.hierarchy = hierarchy
        self.features = features
        self.record: dict[str, Any] = State("boot").to_dict()

    def enrolment(self, tracer: object, instant: Callable[[], None] = lambda: None) -> Enrolment:
        """The next one's, which goes on with what the one before has written.

        Args:
            tracer: makes processes run system calls.
            instant: called before and after the record is written.
        """
        state, save = self._state(instant)
        return Enrolment(self._host(tracer), state, save, Metrics("test"))

    def hands(self, tracer: object) -> Obedience:
        """All that the next one does to the machine."""
        state, save = self._state()
        self.host = self._host(tracer)
        return Obedience(self.host, state, save, Metrics("test"), lambda: False)

    def _state(
        self, instant: Callable[[], None] = lambda: None
    ) -> tuple[State, Callable[[], None]]:
        state = State.from_dict(self.record)

        def save() -> None:
            instant()
            self.record = json.loads(json.dumps(state.to_dict()))
            instant()

        return state, save

    def _host(self, tracer: object) -> Host:
        return Host(
            sysfs=KsmSysfs(),
            hierarchy=self.hierarchy,
            features=self.features,
            tracer=tracer,  # type: ignore[arg-type]
            boot_time=boot_time(),
            ksmd=None,
        )

    def path(self, cgroup: Cgroup) -> str:
        """A cgroup as the agent names it."""
        return "/" + str(cgroup.directory.relative_to(self.hierarchy.mount))


MakeEnrolment = Callable[[object, Cgroup], tuple[Enrolment, str]]


def attend(enrolment: Enrolment, path: str) -> None:
    """Enrol a container as the agent does: again while some process is to be tried again.

    Who must not merge any longer is released then.

    On a slow machine a process may not have had a turn of the CPU in the time of a visit.
    """
    wait_until(lambda: not enrolment.attend(path, "pod"), "nobody is to be tried again")
    outgoing = enrolment.outgoing()
    for _ in enrolment.release(outgoing, 0, outgoing):
        pass


def release_all(enrolment: Enrolment, path: str) -> None:
    """Give everything back, as when a policy is deleted."""
    for _ in enrolment.release([path], 0):
        pass
    assert path not in enrolment.state.containers, enrolment.left


def dismiss(hands: Obedience) -> None:
    """Release who has to go though his container stays, as the agent's loop does."""
    outgoing = hands.enrolment.outgoing()
    hands.departure.step(outgoing, 0, outgoing)


class Node:
    """An agent's hands on one container, moved as its loop does."""

    def __init__(self, hands: Obedience, path: str) -> None:
        self.hands = hands
        self.path = path

    def until(self, done: Callable[[], object], what: str) -> None:
        """Let it work until something is so."""

        def is_so() -> bool:
            dismiss(self.hands)
            self.hands.attention.enrol([self.path], lambda _: "pod")
            return bool(done())

        wait_until(is_so, what)

    def skipped(self) -> Counter[str]:
        """Processes that are left alone, by reason."""
        return self.hands.enrolment.skipped_processes({self.path: None})


@contextlib.contextmanager
def one_container(
    hierarchy: Hierarchy, features: KernelFeatures, tracer: Tracer, cgroup: Cgroup
) -> Iterator[Node]:
    """An agent's hands on one container; in the end nobody looks, and all is given back."""
    agents = Agents(hierarchy, features)
    made = Node(agents.hands(tracer), agents.path(cgroup))
    yield made
    made.hands.observation.end()
    release_all(made.hands.enrolment, made.path)
