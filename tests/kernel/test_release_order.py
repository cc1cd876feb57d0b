"""Releases that would kill in the order in which anybody would do them, and do not in ours."""

from pathlib import Path

import pytest

from kernel.conftest import Cgroup, Holders, Target, intact, wait_until
from kernel.pods import LIMIT, MIB, SIZE, Pods, fill_with_cache, kill, merged_pods, no_kill
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
from ksm_operator.kernel.payers import cgroup_inodes
from support import kernel

RESERVE = 0.01
Outcomes = dict[Process, ReleaseProgress | KernelError]


@pytest.fixture
def pods(holder: Holders, cgroup: Cgroup, ksmd: None, tracer: Tracer) -> Pods:
    """Two containers, merged."""
    return merged_pods(holder, tracer, cgroup.child("one"), cgroup.child("two"))


@pytest.fixture
def rooms(hierarchy: Hierarchy) -> Rooms:
    """This machine's."""
    return Rooms(hierarchy, RESERVE)


def release_in_our_order(tracer: Tracer, rooms: Rooms, *targets: Target) -> Outcomes:
    """As the product does; what it told of each process."""
    outcomes: Outcomes = {}
    processes = [target.process for target in targets]
    for _ in release_all(
        lambda: processes, tracer, rooms, lambda one, outcome: outcomes.update({one: outcome})
    ):
        pass
    return outcomes


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
    with kill(hierarchy, pods.payer), pytest.raises(KernelError):
        release(pods.paying.process, tracer, lambda: None)
    wait_until(lambda: pods.paying.popen.poll() is not None, "killed")


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
    assert SIZE * MIB // 2 < outcome.lacking_bytes < SIZE * MIB
    assert merged(pods.paying) >= (SIZE - 1) * MIB
    # A cgroup's usage moves by itself: it is charged in batches for each CPU, and for page tables.
    pods.payer.limit((LIMIT + outcome.lacking_bytes // MIB + 3) * MIB)
    assert_released(release_in_our_order(tracer, rooms, pods.paying), pods.paying)


@pytest.mark.usefixtures("ksmd")
def test_each_pays_for_some_of_the_other(
    holder: Holders, cgroup: Cgroup, hierarchy: Hierarchy, tracer: Tracer, rooms: Rooms
) -> None:
    """Both pay and both share: neither order of the cgroups fits, but each in two steps does."""
    one, two = cgroup.child("one"), cgroup.child("two")
    # Four processes of two memories; in each cgroup the first of a memory is merged first.
    pairs = [
        [each(16, home, "small") for home in homes]
        for each, homes in ((holder, (one, two)), (holder.others(), (two, one)))
    ]
    targets = [target for pair in pairs for target in pair]
    merge(tracer, *targets, mebibytes=15)
    kernel.write_setting("run", 0)
    for below in (one, two):
        below.limit(40 * MIB)
    with no_kill(hierarchy, one, two):
        outcomes = release_in_our_order(tracer, rooms, *targets)
    assert_released(outcomes, *targets)


def test_page_cache_is_room(
    pods: Pods, hierarchy: Hierarchy, tracer: Tracer, rooms: Rooms, tmp_path: Path
) -> None:
    """A cgroup at its limit because it read files can be released, and loses only the cache."""
    pods.limit(LIMIT)
    fill_with_cache(pods.sharer, tmp_path / "cache", LIMIT)
    naive = release(pods.sharing.process, tracer, lambda: LIMIT * MIB - pods.sharer.usage())
    assert not naive.done, "what the test is about: limit less usage says that there is no room"
    wanted = merged(pods.sharing) + 4 * MIB
    wait_until(lambda: (rooms.levels(pods.sharer.directory)[0].room or 0) > wanted, "cache as room")
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
