"""Processes that live in transparent huge pages, which merging would split."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kernel.conftest import Holders, Start, Target, wait_until
from kernel.huge_programs import MIB, PROGRAM, READY, SIZE, huge
from kernel.many_ranges import family, height
from kernel.test_node_command import ksm_node
from kernel.test_release import merge, mergeable_ranges, merged
from ksm_operator.kernel import Process, Tracer, enrol, find_process
from ksm_operator.kernel.huge_pages import Look, Worth, judge, lives_in_huge_pages
from ksm_operator.kernel.procfs import page_size
from ksm_operator.kernel.samples import take_sample
from ksm_operator.kernel.smaps import read_vmas

FORK = """
here, there = os.pipe()
if os.fork() == 0:
    os.close(there)
    os.read(here, 1)  # until the parent has ended
    os._exit(0)
"""

Living = Callable[..., Target]


@pytest.fixture
def living(start: Start) -> Living:
    """Start one with so many MiB, of which one page in `every` is shared."""

    def begin(every: int, more: str = "") -> Target:
        code = PROGRAM + more + READY
        target = start(sys.executable, "-u", "-c", code, str(SIZE), str(every))
        assert huge(target) >= (SIZE - 4) * MIB, "the kernel gave it no huge pages"
        return target

    return begin


def child_of(target: Target) -> Process:
    """Its only child."""
    (child,) = Path(f"/proc/{target.pid}/task/{target.pid}/children").read_text().split()
    return find_process(int(child))


@pytest.mark.usefixtures("ksmd")
def test_two_percent_shared_are_left_alone(
    living: Living, holder: Holders, tracer: Tracer, tmp_path: Path
) -> None:
    """They would lose every huge page for next to nothing; and they are told why."""
    pair = [living(50), living(50)]
    pids = [str(one.pid) for one in pair]
    done = ksm_node("-o", "json", "enrol", *pids, lock=tmp_path / "lock")
    assert done.returncode == 1, done.stderr
    assert [one["result"] for one in json.loads(done.stdout)] == ["HugePages"] * 2
    assert "--huge-pages split enrols it all the same" in done.stdout
    explained = ksm_node("-o", "json", "explain", "--huge-pages", *pids, lock=tmp_path / "lock")
    assert explained.returncode == 0, explained.stderr
    for one in json.loads(explained.stdout)["processes"]:
        assert 0.015 < one["hugePages"]["share"] < 0.025
        assert not one["hugePages"]["pays"]
    merge(tracer, holder(2), holder(2), mebibytes=2)  # ksmd has had its chance
    assert not any(mergeable_ranges(one.pid) for one in pair)
    assert all(huge(one) >= (SIZE - 4) * MIB for one in pair)


@pytest.mark.usefixtures("ksmd")
def test_without_the_look_they_lose_all_huge_pages_for_little(
    living: Living, tmp_path: Path
) -> None:
    """What the look is for."""
    pair = [living(50), living(50)]
    pids = [str(one.pid) for one in pair]
    done = ksm_node("enrol", "--huge-pages", "split", *pids, lock=tmp_path / "lock")
    assert done.returncode == 0, done.stderr + done.stdout
    wait_until(lambda: all(huge(one) < 4 * MIB for one in pair), "the huge pages are split")
    assert all(merged(one) < 2 * MIB for one in pair)


@pytest.mark.usefixtures("ksmd")
def test_half_shared_is_worth_it(living: Living, tmp_path: Path) -> None:
    """Saving memory is what merging is for; what was foretold is saved."""
    pair = [living(2), living(2)]
    worth = judged(*(one.process for one in pair))
    done = ksm_node("enrol", *(str(one.pid) for one in pair), lock=tmp_path / "lock")
    assert done.returncode == 0, done.stderr + done.stdout
    for one in pair:
        assert worth[one.process].pays
        foretold = worth[one.process].saved.size
        assert abs(foretold - SIZE * MIB // 2) < MIB
        wait_until(
            lambda one=one, foretold=foretold: merged(one) >= 0.95 * foretold,  # type: ignore[misc]
            "as much is merged as was foretold",
        )


def test_preserve_enrols_nobody_of_them(living: Living, tmp_path: Path) -> None:
    """For a person who wants huge pages whatever they cost; without that word they would be."""
    pair = [living(2), living(2)]
    pids = [str(one.pid) for one in pair]
    done = ksm_node("enrol", "--huge-pages", "preserve", *pids, lock=tmp_path / "lock")
    assert done.returncode == 1
    assert "of it are in huge pages" in done.stdout
    assert not any(mergeable_ranges(one.pid) for one in pair)


def judged(*processes: Process) -> dict[Process, Worth]:
    """These, beside nobody else."""
    worth = Look().worth_of(processes, list)
    return {process: one for process, one in worth.items() if isinstance(one, Worth)}


def test_what_fork_shares_is_saved_already(living: Living) -> None:
    """A server and its workers hold one copy of it; merging gives nothing more."""
    parent = living(2, more=FORK)
    child = child_of(parent)
    worth = judged(parent.process, child)
    assert set(worth) == {parent.process, child}
    assert all(one.saved.size < MIB for one in worth.values())


def test_a_worker_that_is_left_out_keeps_what_it_shares(living: Living) -> None:
    """Merged without it, the server frees no page; with it, it does."""
    parent, other = living(1, more=FORK), living(1)
    child = child_of(parent)
    worth = judged(parent.process, other.process)
    assert worth[parent.process].saved.size < MIB
    assert worth[other.process].saved.size < MIB
    worth = judged(parent.process, child, other.process)
    assert all(one.pays for one in worth.values())
    assert abs(worth[parent.process].saved.size - SIZE * MIB // 2) < 2 * MIB


def test_only_what_is_marked_is_a_partner(living: Living, tracer: Tracer) -> None:
    """Ksmd merges nothing with memory that nobody has marked, whatever it holds."""
    pair = [living(1), living(1)]
    one, other = (each.process for each in pair)
    look = Look().worth_of([one], lambda: [other])
    found = look[one]
    assert isinstance(found, Worth)
    assert not found.pays
    enrol(other, tracer)
    found = Look().worth_of([one], lambda: [other])[one]
    assert isinstance(found, Worth)
    assert found.pays


def test_zeroes_do_not_fill_the_sample(start: Start) -> None:
    """They are many, and what is kept of them has to be bounded like all else."""
    code = "import mmap, sys\na = mmap.mmap(-1, 64 << 20, flags=34)\na.madvise(14)\n"
    target = start(code=code + "for p in range(0, 64 << 20, 4096): a[p] = 0\n" + READY)
    every = 16
    sample = take_sample(target.process, read_vmas(target.process), every)
    pages = (64 << 20) // page_size()
    assert 0.7 * pages / every < len(sample.contents) < 1.5 * pages / every + 500


def test_a_process_whose_leader_has_exited_is_read(start: Start) -> None:
    """Its memory lives on in its other threads; passed over, it would be split without a look."""
    code = PROGRAM + (
        "import ctypes, threading\n"
        'print("ready", flush=True)\n'
        "threading.Thread(target=sys.stdin.readline).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)\n"
    )
    target = start(sys.executable, "-u", "-c", code, str(SIZE), "50")
    target.wait_for_state("Z")
    worth = judged(target.process)
    assert not worth[target.process].pays


def test_a_sample_tells_the_same_within_its_error(living: Living) -> None:
    """Large nodes are sampled, and two samples must hold the same contents to meet."""
    pair = [living(3), living(3)]
    found = {}
    for every in (1, 8):
        samples = [take_sample(one.process, read_vmas(one.process), every) for one in pair]
        candidates = {one.process: huge(one) for one in pair}
        found[every] = judge(samples, candidates, every, page_size())[pair[0].process]
    assert found[1].saved.error == 0
    assert abs(found[8].saved.size - found[1].saved.size) <= 2 * found[8].saved.error
    assert found[8].pays


def test_who_does_not_live_in_huge_pages_is_not_read(start: Start) -> None:
    """Reading memory costs CPU, and most processes need not be read."""
    target = start("sh", "-c", "echo ready; read line")
    assert not lives_in_huge_pages(read_vmas(target.process))

    def nobody() -> list[object]:
        raise AssertionError("others were asked for")

    assert Look().worth_of([target.process], nobody) == {}  # type: ignore[arg-type]


def test_it_holds_the_ranges_of_one_process_at_a_time(living: Living, start: Start) -> None:
    """As a survey of who pays: these are as many processes, and it stays taken."""
    one = living(1).process

    def look(*processes: Process) -> int:
        return height(lambda: Look(most_pages=1 << 10).worth_of([one, *processes], list))

    with family(start, 2000, 31) as everybody:
        assert look(*everybody) < 2 * look(everybody[0])
