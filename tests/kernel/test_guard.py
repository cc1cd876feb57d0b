"""Merging alone must cost no pod its life: payers that refill, restart, or read files."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kernel.conftest import Cgroup, Holders, Target, intact, wait_until
from kernel.pods import LIMIT, MIB, SIZE, Pods, fill_with_cache, kill, merged_pods, no_kill
from kernel.test_release import mergeable_ranges, merged
from ksm_operator.kernel import (
    Hierarchy,
    Intent,
    KernelFeatures,
    Level,
    Process,
    Relief,
    Rooms,
    Tracer,
    carry_out,
    prepare,
    read_vmas,
    release,
    relieve,
)
from ksm_operator.kernel.marks import own_ranges
from ksm_operator.kernel.ranges import without
from ksm_operator.kernel.steps import run
from support import kernel

RESERVE = 0.01


@pytest.fixture
def pods(holder: Holders, cgroup: Cgroup, ksmd: None, tracer: Tracer) -> Pods:
    """Two containers in a pod each, merged."""
    containers = [cgroup.child(name).child("container") for name in ("one", "two")]
    return merged_pods(holder, tracer, *containers)


Guard = Callable[..., Relief]


@pytest.fixture
def guard(hierarchy: Hierarchy, tracer: Tracer, features: KernelFeatures) -> Guard:
    """The guard, told of these processes; `ours` are those that it may touch."""

    def look(*targets: Target, ours: Callable[[Process], bool] = lambda _: True) -> Relief:
        processes = [target.process for target in targets]
        keeps_flags = features.unmerge_keeps_flags is True
        rooms = Rooms(hierarchy, RESERVE)
        return run(relieve(lambda: processes, ours, tracer, rooms, keeps_flags=keeps_flags))

    return look


def below(relief: Relief, hierarchy: Hierarchy, cgroup: Cgroup) -> list[str]:
    """Levels of the test's own that lack room."""
    name = hierarchy.name(cgroup.directory)
    return [one.level for one in relief.exposed if one.level.startswith(name)]


def refill(target: Target) -> str:
    """A garbage collector's cycle: everything is dropped and written again; what it says then."""
    target.tell("refill")
    return target.line()


def test_without_it_a_refill_kills_the_payer(pods: Pods, hierarchy: Hierarchy) -> None:
    """What the guard is for: each has as much as it used before merging, and a little."""
    pods.limit(LIMIT)
    with kill(hierarchy, pods.payer):
        assert not refill(pods.paying)


def test_a_payer_refills(pods: Pods, cgroup: Cgroup, hierarchy: Hierarchy, guard: Guard) -> None:
    """The other gave its share back before, within its own limit, and no more than it takes."""
    pods.limit(LIMIT)
    with no_kill(hierarchy, pods.payer, pods.sharer):
        relief = guard(pods.paying, pods.sharing)
        assert list(relief.given_back) == [pods.sharing.process]
        assert merged(pods.paying) >= (SIZE - 1) * MIB
        assert merged(pods.sharing) > 0
        assert not below(relief, hierarchy, cgroup)
        assert refill(pods.paying) == "intact"
        assert refill(pods.sharing) == "intact"


def test_nothing_is_broken_where_there_is_room(
    pods: Pods, cgroup: Cgroup, hierarchy: Hierarchy, guard: Guard
) -> None:
    """Sharing is what merging is for; and the room that was seen is really there."""
    pods.limit(2 * LIMIT)
    relief = guard(pods.paying, pods.sharing)
    assert not relief.given_back
    assert not below(relief, hierarchy, cgroup)
    with no_kill(hierarchy, pods.payer, pods.sharer):
        assert refill(pods.paying) == "intact"


def test_what_grows_after_its_room_was_read_is_told_from_that(
    pods: Pods, holder: Holders, hierarchy: Hierarchy, tracer: Tracer
) -> None:
    """The room is of the moment when it was read, so the usage that growth counts from is, too."""
    grown: list[Target] = []

    class Growing(Rooms):
        def levels(self, directory: Path) -> list[Level]:
            found = super().levels(directory)
            if directory == pods.payer.directory and not grown:
                grown.append(holder.others()(SIZE, pods.payer))
            return found

    pods.limit(4 * LIMIT)
    processes = [pods.paying.process, pods.sharing.process]
    rooms = Growing(hierarchy, RESERVE)
    relief = run(relieve(lambda: processes, lambda _: False, tracer, rooms))
    before = relief.levels[hierarchy.name(pods.payer.directory)].usage
    assert before is not None
    assert pods.payer.usage() - before >= SIZE * MIB


def pod_of(cgroup: Cgroup) -> Path:
    """The directory above a container's."""
    return cgroup.directory.parent


def restarted(holder: Holders, pods: Pods) -> Target:
    """The payer's container died; its successor, which may not come up."""
    pods.paying.kill()
    procs = pods.payer.directory / "cgroup.procs"
    wait_until(lambda: not procs.read_text(), "the payer is empty")
    pods.payer.remove()
    again = Cgroup(pod_of(pods.payer) / "again", pods.payer.version)
    again.directory.mkdir()
    return holder.others()(SIZE, again, "small", ready=False)


def limit_pod(pods: Pods, mebibytes: int) -> None:
    """Limit the payer's pod, not its container."""
    name = "memory.limit_in_bytes" if pods.payer.version == 1 else "memory.max"
    (pod_of(pods.payer) / name).write_text(str(mebibytes * MIB))


def test_without_it_a_restarted_container_is_killed(
    holder: Holders, pods: Pods, cgroup: Cgroup, hierarchy: Hierarchy
) -> None:
    """The pod goes on paying for what its dead container had shared."""
    limit_pod(pods, LIMIT)
    with kill(hierarchy, cgroup):
        assert not restarted(holder, pods).line()


def test_a_payers_container_restarts(
    holder: Holders, pods: Pods, cgroup: Cgroup, hierarchy: Hierarchy, guard: Guard
) -> None:
    """Under the limit of its pod alone, which the guard looked at while the first one lived."""
    limit_pod(pods, LIMIT)
    with no_kill(hierarchy, cgroup, pods.sharer):
        relief = guard(pods.paying, pods.sharing)
        assert list(relief.given_back) == [pods.sharing.process]
        assert not below(relief, hierarchy, cgroup)
        again = restarted(holder, pods)
        assert again.line() == "ready"
        assert intact(again)
        assert intact(pods.sharing)


def test_page_cache_is_room(
    pods: Pods, cgroup: Cgroup, hierarchy: Hierarchy, guard: Guard, tmp_path: Path
) -> None:
    """A payer that is at its limit for files it read needs nobody to give anything back."""
    pods.limit(2 * LIMIT)
    fill_with_cache(pods.payer, tmp_path / "cache", 2 * LIMIT)
    room = Rooms(hierarchy, RESERVE)
    wait_until(
        lambda: (room.levels(pods.payer.directory)[0].room or 0) > (SIZE + 6) * MIB, "cache as room"
    )
    assert 2 * LIMIT * MIB - pods.payer.usage() < SIZE * MIB, "what limit less usage would say"
    with no_kill(hierarchy, pods.payer, pods.sharer):
        relief = guard(pods.paying, pods.sharing)
        assert not relief.given_back
        assert not below(relief, hierarchy, cgroup)
        assert refill(pods.paying) == "intact"


def test_a_sharer_gives_no_more_than_it_has_room_for(
    pods: Pods, cgroup: Cgroup, hierarchy: Hierarchy, guard: Guard
) -> None:
    """Helping one pod must not kill another: the payer is named until the sharer has room."""
    pods.payer.limit(LIMIT * MIB)
    pods.sharer.limit(pods.sharer.usage() + SIZE * MIB // 3)
    with no_kill(hierarchy, pods.payer, pods.sharer):
        relief = guard(pods.paying, pods.sharing)
        # Its clean page cache is room too, and pages that it pays for itself cost nothing.
        assert 2 * MIB < relief.given_back[pods.sharing.process] < SIZE * MIB // 2
        assert hierarchy.name(pods.payer.directory) in below(relief, hierarchy, cgroup)
        assert intact(pods.sharing)
        pods.sharer.limit(LIMIT * MIB)
        assert not below(guard(pods.paying, pods.sharing), hierarchy, cgroup)
        assert refill(pods.paying) == "intact"


def test_others_are_not_touched(
    pods: Pods, cgroup: Cgroup, hierarchy: Hierarchy, guard: Guard
) -> None:
    """A sharer that is not ours stays merged, and its payer is named."""
    pods.limit(LIMIT)
    relief = guard(pods.paying, pods.sharing, ours=lambda process: process == pods.paying.process)
    assert not relief.given_back
    assert below(relief, hierarchy, cgroup) == [hierarchy.name(pods.payer.directory)]
    assert merged(pods.sharing) >= (SIZE - 1) * MIB


def test_what_was_given_back_stays_apart_until_the_release(
    pods: Pods, guard: Guard, tracer: Tracer
) -> None:
    """Ksmd would merge it again at once; and a release finds nothing strange in it."""
    pods.limit(LIMIT)
    guard(pods.paying, pods.sharing)
    before = merged(pods.sharing)
    kernel.write_setting("run", 1)
    scans = kernel.counter("full_scans")
    wait_until(lambda: kernel.counter("full_scans") > scans + 3, "ksmd looked at everything")
    assert merged(pods.sharing) <= before + MIB
    assert not guard(pods.paying, pods.sharing).given_back
    for target in (pods.sharing, pods.paying):
        assert release(target.process, tracer, lambda: None).done
        assert mergeable_ranges(target.pid) == 0
        assert intact(target)


@pytest.mark.usefixtures("ksmd")
def test_marks_of_the_programs_own_come_back(
    holder: Holders,
    cgroup: Cgroup,
    tracer: Tracer,
    guard: Guard,
    features: KernelFeatures,
) -> None:
    """A range that the program had marked and that we broke is marked again after the release."""
    homes = [cgroup.child(name) for name in ("one", "two")]
    members = [(below, holder(SIZE, below, "small", "mergeable")) for below in homes]
    marks = {}
    for _, target in members:
        intent = prepare(target.process, features)
        assert isinstance(intent, Intent)
        marks[target] = intent.marks
        assert sum(each.size for each in intent.marks.own) >= SIZE * MIB
        carry_out(intent, tracer)
    wait_until(lambda: all(merged(one) >= (SIZE - 1) * MIB for _, one in members), "merged")
    kernel.write_setting("run", 0)
    pods = Pods(members)
    pods.limit(LIMIT)
    assert guard(pods.paying, pods.sharing).given_back
    known = marks[pods.sharing]
    assert without(known.own, own_ranges(read_vmas(pods.sharing.process))), "some of it was broken"
    assert release(pods.sharing.process, tracer, lambda: None, marks=known).done
    assert own_ranges(read_vmas(pods.sharing.process)) == known.own
