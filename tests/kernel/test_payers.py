"""Who pays, on real merged pages, held against what the cgroups are charged."""

import contextlib
import os
from pathlib import Path

import pytest

from kernel.conftest import Cgroup, Holders, Start, Target, wait_until
from kernel.many_ranges import family, height
from kernel.test_release import merge, merged
from ksm_operator.kernel import (
    ProcessGone,
    Tracer,
    enrol,
    find_process,
    page_size,
    read_merged_bytes,
    read_vmas,
    release,
)
from ksm_operator.kernel.frames import (
    OTHER_MARKS,
    OWN_FLAG,
    PageFlags,
    anonymous_frames,
)
from ksm_operator.kernel.payers import cgroup_inodes, survey_payers
from ksm_operator.kernel.procfs import PROC, open_memory_file
from ksm_operator.kernel.shares import Estimate, charged_elsewhere, share_of
from support import kernel

MIB = 1 << 20
SIZE = 32
OTHER_CHARGES = 8 * MIB
"""A cgroup pays for more than merged pages: file cache, page tables, batches of each CPU."""
Pair = tuple[tuple[Cgroup, Target], tuple[Cgroup, Target]]


@pytest.fixture
def pair(holder: Holders, cgroup: Cgroup, ksmd: None, tracer: Tracer) -> Pair:
    """Two holders of the same memory in two cgroups: the one that pays first."""
    cgroups = [cgroup.child("one"), cgroup.child("two")]
    targets = [holder(SIZE, below, "small") for below in cgroups]
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
        assert abs(share.merged.size - merged(target)) <= found.doubtful_bytes
        assert share.merged.error == 0
    assert found.doubtful_bytes < MIB // 4
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
    above, others = cgroup.directory.stat().st_ino, cgroup_inodes(sharer.directory)

    def left() -> int:
        found = survey_payers([two.process], every=1)
        return charged_elsewhere(found, others).get(above, Estimate(0)).size

    # The kernel ends a removed cgroup in a worker of its own, and names it until then.
    wait_until(lambda: left() > SIZE * MIB * 3 // 4, "the pod pays for what its container left")
    assert abs(cgroup.usage() - sharer.usage() - left()) < OTHER_CHARGES


FORKED = """
import mmap, os, sys
size = 8 << 20
area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for page in range(size >> 12):
    # The first half holds everything twice, the second half nothing.
    content = page // 2 if page < size >> 13 else page
    area[page << 12 : (page + 1) << 12] = content.to_bytes(8, "little") * 512
print("ready", flush=True)
sys.stdin.readline()
child = os.fork()
if child:
    print(child, flush=True)
sys.stdin.read()
"""


def test_pages_that_fork_shares_are_not_taken_for_merged(
    start: Start, ksmd: None, tracer: Tracer
) -> None:
    """They too are mapped by two processes and written to by neither; some kernels flag them."""
    target = start(code=FORKED)
    merge(tracer, target, mebibytes=4)
    kernel.write_setting("run", 0)
    target.tell("fork")
    family = [target.process, find_process(int(target.line()))]
    found = survey_payers(family, every=1)
    told = [read_merged_bytes(process) for process in family]
    assert all(4 * MIB <= each < 8 * MIB for each in told)
    counted = [share_of(found, {process}, ()).merged.size for process in family]
    # A page that ksmd tried to merge in vain, and that was forked since, is marked like a merged
    # one where the flag is no help: said, and few.
    assert sum(counted) - sum(told) == found.doubtful_bytes
    assert found.doubtful_bytes < MIB // 4
    if found.told_bytes is None:
        assert counted == told


def test_what_marks_a_merged_page_where_its_flag_does_not(pair: Pair) -> None:
    """Held against the kernels whose flag says it: the same pages, and no other."""
    (_, one), _ = pair
    with contextlib.ExitStack() as files:
        flags = PageFlags(files, PROC)
        pagemap = open_memory_file(one.process, "pagemap", files, PROC)

        def frames() -> list[int]:
            size = page_size()
            return [
                frame
                for vma in read_vmas(one.process)
                for frame in anonymous_frames(
                    os.pread(pagemap, vma.size // size * 8, vma.start // size * 8)
                )
            ]

        before = sorted(frames())
        found = zip(before, flags.words(before), strict=True)
        # khugepaged puts pages together meanwhile: a frame that was freed says nothing.
        still = set(frames())
        words = [word for frame, word in found if frame in still]
    assert len(words) > SIZE * MIB // page_size() // 2
    if not flags.mark.is_sure:
        assert all(OWN_FLAG.is_on(word) for word in words), "what it is there for"
        return
    marked = [OTHER_MARKS.is_on(word) for word in words]
    assert marked == [OWN_FLAG.is_on(word) for word in words]
    assert 0 < sum(marked) < len(marked)


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


def test_it_holds_the_ranges_of_one_process_at_a_time(start: Start) -> None:
    """Python keeps for good what a survey of a node's thousands of processes took at its height."""
    with family(start, 300, 11) as everybody:  # an emulated machine has to read them too
        one = height(lambda: survey_payers(everybody[:1], every=1))
        assert height(lambda: survey_payers(everybody, every=1)) < 2 * one
