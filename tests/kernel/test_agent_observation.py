"""What observing foretells, against what enforcing the same then really saves."""

import secrets
import sys
from collections.abc import Callable, Iterator, Sequence

import pytest

from kernel.agents import Node, one_container
from kernel.conftest import Cgroup, Start, Target, wait_until
from kernel.huge_programs import MIB, PROGRAM, READY, SIZE, huge
from kernel.many_ranges import family, height
from ksm_operator.agent.consent import Consent
from ksm_operator.agent.duty import Duty
from ksm_operator.agent.observation import look
from ksm_operator.agent.state import State
from ksm_operator.agent.wire import Ksmd, NodePolicy
from ksm_operator.kernel import Hierarchy, KernelFeatures, Process, Tracer, page_size
from ksm_operator.kernel.duplicates import count_duplicates
from support import kernel

WORKER = """
import mmap, os, random, sys
salt = sys.argv[1]
area = mmap.mmap(-1, 40 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area.madvise(mmap.MADV_NOHUGEPAGE)
data = random.Random(salt)
area[: 24 << 20] = b"".join(data.randbytes(1 << 20) for _ in range(24))
for page in range(24 << 8, 32 << 8):
    area[page << 12 : (page + 1) << 12] = os.urandom(4096)
for page in range(32 << 8, 40 << 8):
    area[page << 12] = 0
"""
"""Like a web worker: data that all have, 24 MiB, 8 MiB of its own, and 8 MiB of zeroes."""


@pytest.fixture
def node(
    hierarchy: Hierarchy, prctl: KernelFeatures, tracer: Tracer, cgroup: Cgroup
) -> Iterator[Node]:
    """One that enrols processes as a whole; all is given back in the end."""
    with one_container(hierarchy, prctl, tracer, cgroup) as made:
        yield made


@pytest.fixture
def run(start: Start, cgroup: Cgroup) -> Callable[..., Target]:
    """Start a program in the container."""

    def begin(code: str, *words: str) -> Target:
        target = start(sys.executable, "-u", "-c", code + READY, *words)
        cgroup.add(target.pid)
        return target

    return begin


def saved() -> int:
    """What ksmd's counters say is saved on this machine."""
    zeroes = kernel.KSM / "ksm_zero_pages"
    pages = kernel.counter("pages_sharing")
    return (pages + (kernel.counter("ksm_zero_pages") if zeroes.exists() else 0)) * page_size()


@pytest.mark.usefixtures("ksmd")
def test_what_was_foretold_is_saved(node: Node, run: Callable[..., Target]) -> None:
    """The figure decides whether a policy is enforced: it must hold, within a tenth."""
    salt = secrets.token_hex(8)
    workers = [run(WORKER, salt) for _ in range(3)]
    poor = [run(PROGRAM, str(SIZE), "50") for _ in range(2)]
    settings, observation = kernel.settings(), node.hands.observation

    observation.go_on(
        [node.path], Consent(State("boot")), NodePolicy(ksmd=Ksmd(cpu_limit_milli_cpu=500))
    )
    wait_until(lambda: observation.last is not None, "a look is over")

    assert observation.last is not None
    told = observation.last.saved
    assert observation.last.processes == len(workers), "not worth their huge pages"
    assert kernel.settings() == settings
    assert not any(kernel.merge_any(one.pid) for one in (*workers, *poor))
    assert told.error < 0.1 * told.size
    truth = count_duplicates((one.process for one in workers), max_page_sharing=256)
    assert abs(told.size - truth.duplicate_bytes) < 0.05 * truth.duplicate_bytes

    node.until(lambda: all(kernel.merge_any(one.pid) for one in workers), "all are enrolled")
    node.until(lambda: saved() > 0.9 * told.size, "nearly as much is saved")
    scans = kernel.counter("full_scans")
    node.until(lambda: kernel.counter("full_scans") > scans + 12, "ksmd has seen all of it")
    assert abs(saved() - told.size) < 0.1 * told.size
    assert all(huge(one) >= (SIZE - 4) * MIB for one in poor)


def test_a_container_at_its_limit_is_not_foretold(
    node: Node, run: Callable[..., Target], cgroup: Cgroup
) -> None:
    """It would not be enrolled, so that what it holds is nothing that enforcing could save."""
    salt = secrets.token_hex(8)
    for _ in range(2):
        run(WORKER, salt)
    observation = node.hands.observation

    def observed() -> int:
        observation.end()

        def is_over() -> bool:
            observation.go_on([node.path], Consent(State("boot")), NodePolicy())
            return observation.last is not None

        wait_until(is_over, "a look")
        assert observation.last is not None
        return observation.last.processes

    assert observed() == 2
    cgroup.limit(cgroup.usage() + 2 * MIB)
    assert observed() == 0


def test_a_look_that_nobody_wants_ends(node: Node, run: Callable[..., Target]) -> None:
    """An edit to Enforce must not leave a thread that reads memory for minutes."""
    run(WORKER, secrets.token_hex(8))
    observation = node.hands.observation
    observation.go_on([node.path], Consent(State("boot")), NodePolicy())
    assert observation.is_looking
    observation.end()
    wait_until(lambda: not observation.is_looking, "it has ended")
    assert observation.last is None


def test_it_holds_the_ranges_of_one_process_at_a_time(start: Start) -> None:
    """What a look takes at its height stays taken from the agent's small limit."""
    duty = Duty(lambda: 1.0, lambda: True)

    def look_at(processes: Sequence[Process]) -> int:
        return height(lambda: look(processes, NodePolicy(), duty))

    with family(start, 2000, 31) as everybody:
        assert look_at(everybody) < 2 * look_at(everybody[:1])
