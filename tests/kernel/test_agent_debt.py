"""A node whose memory filled up behind the back of merging; it takes a small machine to try that.

On a large one it would take all of the memory that others use: a virtual machine has little.
"""

import contextlib
from pathlib import Path

import pytest

from kernel.conftest import Cgroup, Holders, Start, Target, intact, wait_until
from kernel.pods import MIB, kill, no_kill
from kernel.test_release import merged
from kernel.whole_agent import record, running
from ksm_operator.kernel import (
    Hierarchy,
    Tracer,
    enrol,
    node_headroom,
    read_meminfo,
)
from support import kernel

SIZE = 64
Members = list[tuple[Cgroup, Target]]
LEFT = 56
"""MiB that the node has left when somebody has grown: less than merging has saved by then, so that
the node owes too much, but enough for that to come apart. The kernel counts twenty of the MiB that
it can still give out as not available."""


@pytest.fixture
def members(
    *,
    ksm_settings: dict[str, bytes],
    holder: Holders,
    cgroup: Cgroup,
    hierarchy: Hierarchy,
    tracer: Tracer,
    tmp_path: Path,
) -> Members:
    """Two containers with the same memory, on record as enrolled; nothing is merged yet."""
    made = [(one, holder(SIZE, one, "small")) for one in map(cgroup.child, ("one", "two"))]
    for _, target in made:
        enrol(target.process, tracer)
    record(tmp_path, hierarchy, made, "Merging", reserve_percent=50)
    return made


def test_merging_stops_until_the_node_could_take_what_is_merged(
    members: Members, holder: Holders, start: Start, tmp_path: Path
) -> None:
    """Whoever else grows into what it saves would be killed when it comes apart."""
    with running(start, tmp_path) as agent:
        wait_until(lambda: all(merged(one) >= (SIZE - 1) * MIB for _, one in members), "merged")
        assert kernel.counter("run") == 1
        room = node_headroom(read_meminfo(), 0)
        grown = holder.others()(room // MIB - SIZE // 2)
        wait_until(lambda: kernel.counter("run") == 0, "ksmd is stopped")
        debt = agent.metric("ksm_node_merge_debt_bytes")
        assert debt >= (SIZE - 1) * MIB
        assert debt > agent.metric("ksm_node_merge_debt_limit_bytes")
        assert all(merged(one) >= (SIZE - 1) * MIB for _, one in members), "it stays merged"
        grown.kill()
        wait_until(lambda: kernel.counter("run") == 1, "ksmd goes on")
        assert all(intact(target) for _, target in members)
    assert kernel.counter("run") == 0, "as when any agent ends"


@pytest.fixture
def later(members: Members, holder: Holders, cgroup: Cgroup) -> Members:
    """More of the same memory that nobody has enrolled yet; the kernel kills a member first."""
    made = [(one, holder(SIZE, one, "small")) for one in map(cgroup.child, "abcd")]
    for _, target in (*members, *made):
        Path(f"/proc/{target.pid}/oom_score_adj").write_text("1000")
    return made


def grow(holder: Holders) -> list[Target]:
    """Somebody takes whatever is available, as pods do that come because there is room."""
    room = node_headroom(read_meminfo(), 0) // MIB - LEFT
    return [holder.others()(room)] if room > 0 else []


def refill_at_once(members: Members) -> list[str]:
    """All that is merged comes apart; what each says then, which is nothing if it was killed."""
    for _, target in members:
        with contextlib.suppress(BrokenPipeError):
            target.tell("refill")
    return [target.line() for _, target in members]


def are_merged(members: Members) -> bool:
    """All of what each of them holds."""
    return all(merged(one) >= (SIZE - 1) * MIB for _, one in members)


def test_all_that_is_merged_is_written_to_at_once(
    *,
    members: Members,
    later: Members,
    holder: Holders,
    hierarchy: Hierarchy,
    tracer: Tracer,
    start: Start,
    tmp_path: Path,
) -> None:
    """The worst moment of a node whose programs take all that merging saves: nobody is killed."""
    everybody = [*members, *later]
    with no_kill(hierarchy, *(one for one, _ in everybody)), running(start, tmp_path):
        wait_until(lambda: are_merged(members), "merged")
        grown = grow(holder)
        wait_until(lambda: kernel.counter("run") == 0, "ksmd is stopped")
        for _, target in later:
            enrol(target.process, tracer)
        grown += grow(holder)
        assert not any(merged(one) for _, one in later), "nothing more is saved"
        assert refill_at_once(everybody) == ["intact"] * len(everybody)
        assert all(map(intact, grown))


def test_without_a_cap_somebody_is_killed_then(
    *,
    members: Members,
    later: Members,
    holder: Holders,
    hierarchy: Hierarchy,
    tracer: Tracer,
    start: Start,
    tmp_path: Path,
) -> None:
    """What the same agent does on the same node when it merges on, whatever is owed."""
    everybody = [*members, *later]
    with running(start, tmp_path, "uncapped"):
        wait_until(lambda: are_merged(members), "merged")
        grow(holder)
        for _, target in later:
            enrol(target.process, tracer)
        wait_until(lambda: are_merged(later), "what came later is merged too")
        grow(holder)
        with kill(hierarchy, *(one for one, _ in everybody)):
            assert "" in refill_at_once(everybody)
