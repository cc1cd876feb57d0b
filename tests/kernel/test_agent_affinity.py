"""The real ksmd is kept off CPUs that somebody has for himself, and put back."""

import os
from collections.abc import Iterator

import pytest

from ksm_operator.agent.affinity import AFFINITY, Affinity
from ksm_operator.agent.state import SavedCpus, State
from ksm_operator.kernel import find_ksmd, read_affinity, write_affinity


@pytest.fixture
def ksmd() -> Iterator[int]:
    """Its pid; where it may run is put back."""
    pid = find_ksmd()
    assert pid is not None
    before = os.sched_getaffinity(pid)
    if len(before) == 1:
        pytest.skip("a machine with one CPU has none to give away")
    yield pid
    os.sched_setaffinity(pid, before)


class Pool:
    """The CPUs that are left to containers which have none for themselves.

    A kubelet takes CPUs out of it by the cpuset of the agent's container; here the test does.
    """

    def __init__(self) -> None:
        self.whole = read_affinity(0)
        self.left = self.whole

    def __call__(self) -> frozenset[int]:
        """As the agent asks for it."""
        return self.left


def test_ksmd_leaves_a_cpu_that_is_taken_and_comes_back(ksmd: int) -> None:
    """A latency-critical pod that paid for whole CPUs must not find ksmd there."""
    pool, saves = Pool(), list[None]()
    state = State("boot")
    affinity = Affinity(ksmd, state, lambda: saves.append(None), pool)
    affinity.keep()
    assert read_affinity(ksmd) == pool.whole
    assert not saves

    pool.left = pool.whole - {max(pool.whole)}
    affinity.keep()
    assert read_affinity(ksmd) == pool.left
    written = len(saves)
    affinity.keep()
    assert len(saves) == written

    # Another agent goes on with the record.
    again = State.from_dict(state.to_dict())
    second = Affinity(ksmd, again, lambda: None, pool)
    pool.left = pool.whole
    second.keep()
    assert read_affinity(ksmd) == pool.whole
    pool.left = pool.whole - {min(pool.whole)}
    second.keep()
    assert second.restore() == ()
    assert read_affinity(ksmd) == pool.whole
    assert second.restore() == ()


def test_an_administrators_choice_stays(ksmd: int) -> None:
    """Whoever pins ksmd by hand has a reason: it stays there until the policy is edited."""
    pool, state = Pool(), State("boot")
    first, last = {min(pool.whole)}, {max(pool.whole)}
    affinity = Affinity(ksmd, state, lambda: None, pool)
    pool.left = frozenset(first)
    affinity.keep()
    write_affinity(ksmd, last)
    affinity.keep()
    assert read_affinity(ksmd) == last
    assert state.yielded == {AFFINITY}
    assert affinity.restore() == (AFFINITY,)
    assert read_affinity(ksmd) == last

    affinity.reclaim()
    affinity.keep()
    assert read_affinity(ksmd) == first
    assert not state.yielded


def test_an_agent_killed_before_the_move_leaves_no_administrators_choice(ksmd: int) -> None:
    """Taken for somebody else's, ksmd would stay on CPUs that a pod has paid for."""
    pool = Pool()
    pool.left = pool.whole - {max(pool.whole)}
    # On record by then, of the first move and of one that comes later; ksmd has not been moved.
    for written in (pool.left, pool.whole - {min(pool.whole)}):
        state = State("boot", affinity=SavedCpus(pool.whole, written))
        second = Affinity(ksmd, state, lambda: None, pool)
        second.adopt()
        second.keep()
        assert not state.yielded
        assert read_affinity(ksmd) == pool.left
    assert second.restore() == ()
    assert read_affinity(ksmd) == pool.whole
