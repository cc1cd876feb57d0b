"""What splitting huge pages gives, computed from samples."""

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.kernel import Process
from ksm_operator.kernel.huge_pages import (
    WORTH_SHARE,
    Worth,
    judge,
    lives_in_huge_pages,
)
from ksm_operator.kernel.procfs import page_size
from ksm_operator.kernel.samples import Sample, zero_content
from ksm_operator.kernel.smaps import Vma

SIZE = page_size()
MIB = 1 << 20
ZERO = zero_content(SIZE)


@dataclass(frozen=True)
class Machine:
    """Frames with a content each, and who maps them; process 0 is no part of any of it."""

    frames: tuple[tuple[int, frozenset[int]], ...]

    def samples(self) -> list[Sample]:
        """What each process but that one shows."""
        pids = set[int]().union(*(mappers for _, mappers in self.frames)) - {0}
        return [self._sample(pid) for pid in sorted(pids)]

    def _sample(self, pid: int) -> Sample:
        rows = [
            (content, number + 1, len(mappers))
            for number, (content, mappers) in enumerate(self.frames)
            if pid in mappers
        ]
        return sample(pid, rows)

    def freed(self, merged: Iterable[int]) -> int:
        """Frames that the machine needs less if these processes, and no others, are merged."""
        inside = set(merged)
        whole = Counter(content for content, mappers in self.frames if mappers <= inside)
        return sum(count - 1 for count in whole.values())


def sample(pid: int, rows: Sequence[tuple[int, int, int]]) -> Sample:
    """Pages as content, frame and number of mappings, all in huge pages."""
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    huge = array("B", [1] * len(rows))
    contents, frames, counts = columns
    return Sample(
        Process(pid, 1), array("I", contents), array("Q", frames), array("Q", counts), huge
    )


def all_of(samples: Iterable[Sample]) -> dict[Process, int]:
    """Everybody's huge pages are at stake."""
    return {one.process: len(one.contents) * SIZE for one in samples}


def verdicts(samples: Sequence[Sample], every: int = 1) -> dict[Process, Worth]:
    """Everybody judged."""
    return judge(samples, all_of(samples), every, SIZE)


PIDS = st.frozensets(st.integers(0, 5), min_size=1, max_size=3)
MACHINES = st.lists(st.tuples(st.integers(0, 8), PIDS), max_size=40).map(
    lambda frames: Machine(tuple(frames))
)


@given(MACHINES)
def test_together_they_give_what_the_machine_needs_less(machine: Machine) -> None:
    """Counted anew, frame by frame; of a content that several have, each counts on the others'."""
    samples = machine.samples()
    everybody = {one.process.pid for one in samples}
    alone = [judge(samples, {one.process: 1}, 1, SIZE)[one.process] for one in samples]
    total = sum(one.saved.size for one in alone)
    owners: dict[int, set[frozenset[int]]] = {}
    for content, mappers in machine.frames:
        if mappers <= everybody:
            owners.setdefault(content, set()).add(mappers)
    counted_twice = sum(len(each) > 1 for each in owners.values())
    freed = machine.freed(everybody)
    assert freed * SIZE - len(samples) <= total <= (freed + counted_twice) * SIZE + len(samples)


@given(MACHINES)
def test_those_who_pay_are_the_largest_set_that_does(machine: Machine) -> None:
    """Nobody counts on one who is left alone, and nobody is left alone who could have paid."""
    samples = machine.samples()
    everybody = all_of(samples)
    winners = {process for process, worth in verdicts(samples).items() if worth.pays}
    for count in range(len(samples) + 1):
        for some in combinations(samples, count):
            at_stake = {one.process: everybody[one.process] for one in some}
            found = judge(some, at_stake, 1, SIZE)
            if all(worth.pays for worth in found.values()):
                assert at_stake.keys() <= winners
            if at_stake.keys() == winners:
                assert all(worth.pays for worth in found.values())


@given(MACHINES)
def test_all_are_told(machine: Machine) -> None:
    """Everybody who was left alone gets a figure."""
    samples = machine.samples()
    worth = verdicts(samples)
    assert set(worth) == {one.process for one in samples}
    assert all(0.0 <= one.share <= 1.0 + 1e-9 for one in worth.values())
    assert all(one.pays == (one.share >= WORTH_SHARE) for one in worth.values())


def test_a_child_that_is_left_out_keeps_every_frame() -> None:
    """A server named without its workers: merging it alone frees nothing."""
    rows = [(content % 8, content + 1, 2) for content in range(64)]
    (worth,) = verdicts([sample(1, rows)]).values()
    assert worth.saved.size == 0
    both = verdicts([sample(1, rows), sample(2, rows)])
    assert [one.saved.size for one in both.values()] == [28 * SIZE] * 2


def test_pages_of_small_ranges_are_partners_and_not_at_stake() -> None:
    """What it has in small pages costs no huge page, and can be what others share."""
    one = sample(1, [(1, 1, 1), (2, 2, 1), (3, 3, 1), (3, 4, 1)])
    one.in_huge[2] = 0
    (worth,) = verdicts([one]).values()
    assert worth.saved.size == SIZE
    assert worth.share == pytest.approx(1 / 3)


def test_the_kernels_own_zeroes_are_nobodys_memory() -> None:
    """A page that was only read takes none; one that was written can give way to it."""
    one = sample(1, [(ZERO, 1, 0), (ZERO, 1, 0), (ZERO, 2, 1), (9, 3, 1)])
    (worth,) = verdicts([one]).values()
    assert worth.saved.size == SIZE
    assert worth.share == 0.5


@given(st.integers(1, 6).map(lambda power: 1 << power), st.integers(1, 50))
def test_a_sample_stands_for_all(every: int, pages: int) -> None:
    """One of so many contents was kept, so each counts as many times."""
    rows = [(content, 2 * content + copy, 1) for content in range(pages) for copy in (0, 1)]
    (worth,) = verdicts([sample(1, rows)], every).values()
    assert worth.saved.size == pages * every * SIZE
    assert worth.saved.error > 0
    assert worth.share == pytest.approx(0.5)


def test_who_lives_in_huge_pages() -> None:
    """Half of its memory: a program with one huge page by chance does not depend on it."""

    def vma(anonymous: int, huge: int) -> Vma:
        return Vma(0, 64 * MIB, "", frozenset(), anonymous, anonymous, 0, huge_bytes=huge)

    assert lives_in_huge_pages([vma(4 * MIB, 4 * MIB), vma(4 * MIB, 0)])
    assert not lives_in_huge_pages([vma(4 * MIB, 2 * MIB), vma(4 * MIB, 0)])
    assert not lives_in_huge_pages([])
    assert not lives_in_huge_pages([vma(0, 0)])
