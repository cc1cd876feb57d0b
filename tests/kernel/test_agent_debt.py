"""A node whose memory filled up behind the back of merging; it takes a small machine to try that.

On a large one it would take all of the memory that others use: a virtual machine has little.
"""

from pathlib import Path

import pytest

from kernel.conftest import Cgroup, Holders, Start, Target, intact, wait_until
from kernel.pods import MIB, no_kill
from kernel.test_release import merged
from kernel.whole_agent import record, running
from ksm_operator.kernel import (
    Hierarchy,
    Tracer,
    enrol,
    node_headroom,
    page_size,
    read_meminfo,
)
from support import kernel

SIZE = 64
Members = list[tuple[Cgroup, Target]]
LEFT = 56
"""MiB that the node has left but for what merging saves, which is more."""


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


def test_all_that_is_merged_is_written_to_at_once(
    members: Members, holder: Holders, hierarchy: Hierarchy, start: Start, tmp_path: Path
) -> None:
    """The worst moment of all, on a node that was nearly full: nobody is killed for having merged.

    What was saved is still there, since nobody grew into it, and the copies need no more than that.
    """
    with no_kill(hierarchy, *(one for one, _ in members)), running(start, tmp_path):
        saved = kernel.counter("pages_sharing") * page_size()
        filler = holder.others()((node_headroom(read_meminfo(), 0) - saved) // MIB - LEFT)
        wait_until(lambda: all(merged(one) >= (SIZE - 1) * MIB for _, one in members), "merged")
        for _, target in members:
            target.tell("refill")
        assert [target.line() for _, target in members] == ["intact", "intact"]
        assert intact(filler)
