"""Releases that would kill in the order in which anybody would do them, and do not in ours."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kernel.conftest import Cgroup, Start, Target, intact, wait_until
from kernel.sharers import sharers
from kernel.test_release import merge, mergeable_ranges, merged
from ksm_operator.kernel import (
    Hierarchy,
    KernelError,
    Process,
    ReleaseProgress,
    Rooms,
    Tracer,
    release,
    release_all,
    share_of,
    survey_payers,
)
from ksm_operator.kernel.headroom import path_up
from ksm_operator.kernel.payers import cgroup_inodes
from support import kernel

MIB = 1 << 20
SIZE = 48
LIMIT = 64
RESERVE = 0.01
Outcomes = dict[Process, ReleaseProgress | KernelError]


class Pods:
    """Two containers with the same memory, merged: the one that pays, and the one that shares."""

    def __init__(self, members: list[tuple[Cgroup, Target]]) -> None:
        members.sort(key=lambda one: -one[0].usage())
        (self.payer, self.paying), (self.sharer, self.sharing) = members

    def limit(self, mebibytes: int) -> None:
        """Give both as much as they would use without merging, and a little."""
        self.payer.limit(mebibytes * MIB)
        self.sharer.limit(mebibytes * MIB)


@pytest.fixture
def pods(start: Start, cgroup: Cgroup, ksmd: None, tracer: Tracer) -> Pods:
    """Merged, and ksmd at rest, so that nothing merges again behind a test."""
    sharer = sharers(start)
    members = [(below, sharer(SIZE, below)) for below in map(cgroup.child, ("one", "two"))]
    merge(tracer, *(target for _, target in members), mebibytes=SIZE - 1)
    kernel.write_setting("run", 0)
    pods = Pods(members)
    assert pods.payer.usage() - pods.sharer.usage() > SIZE * MIB * 3 // 4, "nobody pays alone"
    return pods


def oom_kills(hierarchy: Hierarchy, *cgroups: Cgroup) -> int:
    """Kills counted by these cgroups and every one above them."""
    name = "memory.oom_control" if hierarchy.version == 1 else "memory.events"
    levels = {level for cgroup in cgroups for level in path_up(hierarchy, cgroup.directory)}
    total = 0
    for level in levels:
        file = level / name
        words = file.read_text().split() if file.exists() else []
        total += int(words[words.index("oom_kill") + 1]) if "oom_kill" in words else 0
    return total


@contextmanager
def no_kill(hierarchy: Hierarchy, *cgroups: Cgroup) -> Iterator[None]:
    """What follows kills nobody."""
    before = oom_kills(hierarchy, *cgroups)
    yield
    assert oom_kills(hierarchy, *cgroups) == before


def release_in_our_order(tracer: Tracer, rooms: Rooms, *targets: Target) -> Outcomes:
    """As the product does; what it told of each process."""
    outcomes: Outcomes = {}
    processes = [target.process for target in targets]
    for _ in release_all(
        lambda: processes, tracer, rooms, lambda one, outcome: outcomes.update({one: outcome})
    ):
        pass
    return outcomes


@pytest.fixture
def rooms(hierarchy: Hierarchy) -> Rooms:
    """This machine's."""
    return Rooms(hierarchy, RESERVE)


def assert_released(outcomes: Outcomes, *targets: Target) -> None:
    """Each is done, has its own pages and what it wrote."""
    for target in targets:
        outcome = outcomes[target.process]
        assert isinstance(outcome, ReleaseProgress), outcome
        assert outcome.done, outcome
        assert merged(target) == 0
        assert mergeable_ranges(target.pid) == 0
        assert intact(target)


def test_the_payer_first_is_killed(pods: Pods, hierarchy: Hierarchy, tracer: Tracer) -> None:
    """What the order is for: limits that suffice without merging do not survive a bad release."""
    pods.limit(LIMIT)
    before = oom_kills(hierarchy, pods.payer)
    with pytest.raises(KernelError):
        release(pods.paying.process, tracer, lambda: None)
    wait_until(lambda: pods.paying.popen.poll() is not None, "killed")
    assert oom_kills(hierarchy, pods.payer) > before


def test_sharers_go_before_payers(
    pods: Pods, hierarchy: Hierarchy, tracer: Tracer, rooms: Rooms
) -> None:
    """The same limits, with the payer named first."""
    pods.limit(LIMIT)
    both = (pods.paying, pods.sharing)
    with no_kill(hierarchy, pods.payer, pods.sharer):
        outcomes = release_in_our_order(tracer, rooms, *both)
    assert list(outcomes) == [pods.sharing.process, pods.paying.process]
    assert_released(outcomes, *both)
    for cgroup in (pods.payer, pods.sharer):
        assert SIZE * MIB < cgroup.usage() < LIMIT * MIB


def test_a_payer_alone_is_left_whole(
    pods: Pods, hierarchy: Hierarchy, tracer: Tracer, rooms: Rooms
) -> None:
    """Nothing is eaten of its room for a release that cannot end; the level that lacks is named."""
    pods.limit(LIMIT)
    with no_kill(hierarchy, pods.payer):
        outcome = release_in_our_order(tracer, rooms, pods.paying)[pods.paying.process]
    assert isinstance(outcome, ReleaseProgress)
    assert (outcome.done, outcome.reason) == (False, "NoHeadroom")
    assert outcome.level == hierarchy.name(pods.payer.directory)
    assert 20 * MIB < outcome.lacking_bytes < 48 * MIB
    assert merged(pods.paying) >= (SIZE - 1) * MIB
    pods.payer.limit((LIMIT + outcome.lacking_bytes // MIB + 2) * MIB)
    assert_released(release_in_our_order(tracer, rooms, pods.paying), pods.paying)


@pytest.mark.usefixtures("ksmd")
def test_each_pays_for_some_of_the_other(
    start: Start, cgroup: Cgroup, hierarchy: Hierarchy, tracer: Tracer, rooms: Rooms
) -> None:
    """Both pay and both share: neither order of the cgroups fits, but each in two steps does."""
    one, two = cgroup.child("one"), cgroup.child("two")
    left, right = sharers(start), sharers(start)
    # Four processes of two memories; in each cgroup the first of a memory is merged first.
    pairs = [(left(24, one), left(24, two)), (right(24, two), right(24, one))]
    targets = [target for pair in pairs for target in pair]
    merge(tracer, *targets, mebibytes=23)
    kernel.write_setting("run", 0)
    for below in (one, two):
        below.limit(80 * MIB)
    with no_kill(hierarchy, one, two):
        outcomes = release_in_our_order(tracer, rooms, *targets)
    assert_released(outcomes, *targets)


def fill_with_cache(cgroup: Cgroup, file: Path) -> None:
    """Read a file from inside until the cgroup is at its limit."""
    procs = cgroup.directory / "cgroup.procs"
    script = f'echo $$ > "{procs}"; head -c {LIMIT * MIB} /dev/zero > "{file}"; sync "{file}"; '
    subprocess.run(["sh", "-c", script + f'cat "{file}" "{file}" > /dev/null'], check=True)


def test_page_cache_is_room(
    pods: Pods, hierarchy: Hierarchy, tracer: Tracer, rooms: Rooms, tmp_path: Path
) -> None:
    """A cgroup at its limit because it read files can be released, and loses only the cache."""
    pods.limit(LIMIT)
    fill_with_cache(pods.sharer, tmp_path / "cache")
    free = LIMIT * MIB - pods.sharer.usage()
    if free > 16 * MIB:
        pytest.skip(f"{tmp_path} is on a file system whose cache is not charged (tmpfs)")
    naive = release(pods.sharing.process, tracer, lambda: LIMIT * MIB - pods.sharer.usage())
    assert not naive.done, "what the test is about: limit less usage says that there is no room"
    wait_until(
        lambda: (rooms.levels(pods.sharer.directory)[0].room or 0) > 54 * MIB, "cache as room"
    )
    with no_kill(hierarchy, pods.payer, pods.sharer):
        outcomes = release_in_our_order(tracer, rooms, pods.paying, pods.sharing)
    assert_released(outcomes, pods.paying, pods.sharing)


def test_phantom_charge_is_what_a_refill_costs(pods: Pods) -> None:
    """A garbage collector's cycle in the payer: it pays for its new pages and the others' old."""
    before = pods.payer.usage()
    pods.paying.tell("refill")
    assert pods.paying.line() == "intact"
    found = survey_payers([pods.paying.process, pods.sharing.process], every=1)
    inodes = cgroup_inodes(pods.payer.directory)
    phantom = share_of(found, {pods.paying.process}, inodes).phantom.size
    assert phantom > SIZE * MIB * 3 // 4
    assert abs(pods.payer.usage() - before - phantom) < 4 * MIB
