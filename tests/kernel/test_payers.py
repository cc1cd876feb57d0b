"""Who pays, on real merged pages, held against what the cgroups are charged."""

import contextlib
from pathlib import Path

import pytest

from kernel.conftest import Cgroup, Start, Target, wait_until
from kernel.sharers import sharers
from kernel.test_release import merge, merged
from ksm_operator.kernel import ProcessGone, Tracer, enrol, find_process, release
from ksm_operator.kernel.payers import cgroup_inodes, charged_elsewhere, share_of, survey_payers
from support import kernel

MIB = 1 << 20
SIZE = 32
OTHER_CHARGES = 8 * MIB
"""A cgroup pays for more than merged pages: file cache, page tables, batches of each CPU."""
Pair = tuple[tuple[Cgroup, Target], tuple[Cgroup, Target]]


@pytest.fixture
def pair(start: Start, cgroup: Cgroup, ksmd: None, tracer: Tracer) -> Pair:
    """Two holders of the same memory in two cgroups: the one that pays first."""
    cgroups = [cgroup.child("one"), cgroup.child("two")]
    sharer = sharers(start)
    targets = [sharer(SIZE, below) for below in cgroups]
    merge(tracer, *targets, mebibytes=SIZE - 1)
    kernel.write_setting("run", 0)
    both = list(zip(cgroups, targets, strict=True))
    both.sort(key=lambda one: -one[0].usage())
    assert both[0][0].usage() - both[1][0].usage() > SIZE * MIB * 3 // 4, "nobody pays alone"
    return both[0], both[1]


def test_who_pays_agrees_with_the_usage_of_the_cgroups(pair: Pair) -> None:
    """The pages that one pays for are those that the other's usage lacks."""
    (payer, one), (sharer, two) = pair
    found = survey_payers([one.process, two.process], every=1)
    shares = [
        share_of(found, {target.process}, cgroup_inodes(cgroup.directory))
        for cgroup, target in pair
    ]
    for target, share in zip((one, two), shares, strict=True):
        assert share.merged.size == merged(target)
        assert share.merged.error == 0
    difference = payer.usage() - sharer.usage()
    paid = shares[0].paid.size - shares[1].paid.size
    assert abs(difference - paid) < OTHER_CHARGES
    assert shares[1].unpaid.size > SIZE * MIB * 3 // 4
    assert shares[0].phantom.size == 0
    print(found.cost)


def test_a_sample_agrees_with_the_whole(pair: Pair) -> None:
    """Within the error that it states, for a fraction of the work."""
    processes = [target.process for _, target in pair]
    inodes = cgroup_inodes(pair[0][0].directory)
    whole = survey_payers(processes, every=1)
    part = survey_payers(processes, every=8)
    exact, estimate = (share_of(one, processes[:1], inodes) for one in (whole, part))
    assert part.cost.frames < whole.cost.frames / 4
    assert 0 < estimate.merged.error < exact.merged.size / 4
    # Twice the 95 % interval: a test must not fail once in twenty runs.
    assert abs(estimate.merged.size - exact.merged.size) <= 2 * estimate.merged.error
    assert abs(estimate.paid.size - exact.paid.size) <= 2 * estimate.paid.error


def test_phantom_charge_of_one_that_gave_its_pages_up(pair: Pair, tracer: Tracer) -> None:
    """It has its own pages again and still pays for the others': its usage doubles."""
    (payer, one), (_, two) = pair
    before = payer.usage()
    assert release(one.process, tracer, lambda: None).done
    found = survey_payers([one.process, two.process], every=1)
    share = share_of(found, {one.process}, cgroup_inodes(payer.directory))
    assert share.merged.size == 0
    assert share.phantom.size > SIZE * MIB * 3 // 4
    assert abs(payer.usage() - before - share.phantom.size) < OTHER_CHARGES


def test_charge_that_a_removed_cgroup_left(pair: Pair, cgroup: Cgroup) -> None:
    """The pod above goes on paying for a container that is gone, and the survey says so."""
    (payer, one), (sharer, two) = pair
    one.kill()
    wait_until(lambda: not (payer.directory / "cgroup.procs").read_text(), "the payer is empty")
    payer.remove()
    found = survey_payers([two.process], every=1)
    left = charged_elsewhere(found, cgroup_inodes(sharer.directory))
    pod = left[cgroup.directory.stat().st_ino]
    assert pod.size > SIZE * MIB * 3 // 4
    assert abs(cgroup.usage() - sharer.usage() - pod.size) < OTHER_CHARGES


def test_processes_that_come_and_go_meanwhile(start: Start, ksmd: None, tracer: Tracer) -> None:
    """Nothing fails whatever happens between two reads."""
    target = start(
        code="""
import mmap, os, select, sys
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    child = os.fork()
    if not child:
        area = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        area.write(bytes([7]) * (1 << 20))
        os._exit(0)
    os.waitpid(child, 0)
"""
    )
    enrol(target.process, tracer)
    wait_until(lambda: merged(target) > 0, "something merged")
    children = Path(f"/proc/{target.pid}/task/{target.pid}/children")
    for _ in range(30):
        family = [target.process]
        for pid in children.read_text().split():
            with contextlib.suppress(ProcessGone):
                family.append(find_process(int(pid)))
        survey_payers(family, every=1)
    assert target.popen.poll() is None
