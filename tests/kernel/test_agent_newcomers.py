"""Who comes into a container after it was looked at, with real processes and real calls."""

import contextlib
import queue

import pytest

from kernel.agents import WAIT
from kernel.conftest import Cgroup, Start, wait_until
from ksm_operator.agent.host import Host, boot_time
from ksm_operator.agent.metrics import Metrics
from ksm_operator.agent.neighbours import Neighbours
from ksm_operator.agent.obey import Obedience
from ksm_operator.agent.placement import Placement
from ksm_operator.agent.reconcile import Reconciler
from ksm_operator.agent.schedule import Schedule
from ksm_operator.agent.state import State
from ksm_operator.agent.told import Told
from ksm_operator.agent.view import View
from ksm_operator.agent.wire import (
    Enrollment,
    Ksmd,
    Node,
    NodePolicy,
    NodeSpec,
    ObjectMeta,
    Owner,
    Pod,
)
from ksm_operator.kernel import Helper, Hierarchy, KernelFeatures, KsmSysfs, Tracer
from support import kernel


@pytest.fixture
def hands(hierarchy: Hierarchy, prctl: KernelFeatures, tracer: Tracer) -> Obedience:
    """An agent's, that remembers nothing on disk."""
    host = Host(
        sysfs=KsmSysfs(),
        hierarchy=hierarchy,
        features=prctl,
        tracer=tracer,  # type: ignore[arg-type]
        boot_time=boot_time(),
        ksmd=None,
    )
    return Obedience(host, State("boot"), lambda: None, Metrics("test"), lambda: False)


def test_a_new_container_is_glanced_at_between_its_looks(
    hands: Obedience, hierarchy: Hierarchy, cgroup: Cgroup, start: Start
) -> None:
    """A runtime's next process may come right after a look, and be the program before the next."""
    first, second = start(code=WAIT), start(code=WAIT)
    cgroup.add(first.pid)
    path = hierarchy.name(cgroup.directory)
    hands.attention.appeared(path)
    hands.attention.enrol([path], lambda _: "pod")
    assert kernel.merge_any(first.pid)
    hands.attention._attempts[path] = (1, float("inf"))  # no look is planned any more

    cgroup.add(second.pid)

    def enrolled() -> bool:
        hands.attention.enrol([path], lambda _: "pod")
        return bool(kernel.merge_any(second.pid))

    wait_until(enrolled, "the second process is enrolled")


def test_nothing_is_due_while_nobody_may_be_enrolled(
    hands: Obedience, hierarchy: Hierarchy, cgroup: Cgroup, start: Start
) -> None:
    """A node that waits for hours must not spend them on looks that lead to nothing."""
    cgroup.add(start(code=WAIT).pid)
    path = hierarchy.name(cgroup.directory)
    hands.attention.appeared(path)
    hands.attention.enrol([path], lambda _: "pod")
    assert hands.attention.next_due() < float("inf")

    hands.state.owner = "former"
    assert not hands.accept(Owner(name="policy", uid="uid", generation=1), Ksmd(), lambda _: "")

    assert hands.attention.next_due() == float("inf")


def test_the_helper_runs_before_the_first_container_comes(
    hierarchy: Hierarchy, prctl: KernelFeatures
) -> None:
    """Else the program of that container has begun before the helper has."""
    with contextlib.closing(Helper()) as helper:
        host = Host(KsmSysfs(), hierarchy, prctl, helper, boot_time(), None)
        hands = Obedience(host, State("boot"), lambda: None, Metrics("test"), lambda: False)
        assert hands.accept(Owner(name="policy", uid="uid", generation=1), Ksmd(), lambda _: "")
        assert helper.pid is not None


def test_who_has_ended_is_forgotten_beside_those_that_live(
    hands: Obedience, hierarchy: Hierarchy, cgroup: Cgroup, start: Start
) -> None:
    """A record of the dead fences the node, and one of the living is all that releases them."""
    quick, slow, alone = (start(code=WAIT) for _ in range(3))
    both, other = cgroup.child("both"), cgroup.child("other")
    for target, place in ((quick, both), (slow, both), (alone, other)):
        place.add(target.pid)
    paths = [hierarchy.name(one.directory) for one in (both, other)]
    hands.attention.enrol(paths, lambda _: "pod")
    for target in (quick, alone):
        target.kill()

    hands.enrolment.prune()

    assert {path: one.enrolled for path, one in hands.state.containers.items()} == {
        paths[0]: {slow.process}
    }


BECOMES_THE_PROGRAM = """
import os, sys
print("ready", flush=True)
sys.stdin.readline()
program = "import ctypes; print(ctypes.CDLL(None).prctl(68, 0, 0, 0, 0), flush=True)"
os.execv(sys.executable, [sys.executable, "-c", program])
"""
"""As a runtime's init does; the program asks whether it is mergeable (PR_GET_MEMORY_MERGE)."""


def test_who_is_new_under_skip_merges_from_the_first_instruction(
    hierarchy: Hierarchy,
    prctl: KernelFeatures,
    ksm_settings: dict[str, bytes],
    cgroup: Cgroup,
    start: Start,
) -> None:
    """A container is noticed while it is empty, and nothing tells when its first process comes."""
    init = start(code=BECOMES_THE_PROGRAM)
    path = hierarchy.name(cgroup.directory)
    spec = NodeSpec(
        owner=Owner(name="policy", uid="uid", generation=1),
        granted_at="2020-01-01T00:00:00Z",
        desired_state="Merging",
        policy=NodePolicy(namespaces=("web",), enrollment=Enrollment(running_pods="Skip")),
    )
    view = View()
    view.pods_listed([Pod(name="p", namespace="web", uid="pod")])
    view.namespaces_arrived([ObjectMeta(name="web")])
    with contextlib.closing(Helper()) as helper:
        host = Host(KsmSysfs(), hierarchy, prctl, helper, boot_time(), None)
        state = State("boot", owner="uid")
        hands = Obedience(host, state, lambda: None, Metrics("test"), lambda: False)
        told = Told(state)
        assert told.hear(Node(metadata=ObjectMeta(name="node", uid="node"), spec=spec))
        reconciler = Reconciler(
            host,
            hands,
            Neighbours(host, queue.SimpleQueue()),
            told=told,
            state=state,
            view=view,
            schedule=Schedule(),
            namespace="ksm-operator",
            ask=lambda _: None,
        )
        view.containers[path] = Placement("pod", "container", path)
        hands.attention.appeared(path)
        assert reconciler.reconcile()

        cgroup.add(init.pid)

        def enrolled() -> bool:
            reconciler.reconcile()
            return bool(kernel.merge_any(init.pid))

        wait_until(enrolled, "the runtime's init is enrolled")
    init.tell("go on")
    first = init.line()
    if prctl.exec_inherits:
        assert first == "1"
