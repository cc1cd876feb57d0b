"""Merging by ranges, as kernels without the prctl need it: real marks, exactly ours, given back."""

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest

from kernel.conftest import Start, Target, wait_until
from ksm_operator.kernel import (
    Advised,
    AlreadyMergeable,
    Enrolled,
    Intent,
    KernelFeatures,
    Marks,
    Postponed,
    Range,
    Refused,
    SkipReason,
    Tracer,
    carry_out,
    enrol,
    merges_everything,
    prepare,
    release,
)
from support import kernel

MIB = 1 << 20

PROGRAM = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
libc.munmap.argtypes = libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
print("ready", flush=True)
for line in sys.stdin:
    what, *numbers = line.split()
    numbers = [int(number) for number in numbers]
    answer = 0
    if what == "map":
        answer = libc.mmap(None, numbers[0], 3, 0x22, -1, 0)
        libc.madvise(answer, numbers[0], 15)  # no huge pages
        ctypes.memset(answer, 7, numbers[0])
    elif what == "end":
        break
    else:
        answer = getattr(libc, what)(*numbers)
    print(answer, flush=True)
"""


class Program:
    """A target that maps and marks what it is told to."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.process = target.process

    def ask(self, *words: object) -> int:
        """One command, and its answer."""
        self.target.tell(" ".join(str(word) for word in words))
        return int(self.target.line())

    def map(self, mebibytes: int) -> Range:
        """New memory, filled, between two holes so that it joins no neighbour."""
        address = self.ask("map", (mebibytes + 2) * MIB)
        for hole in (address, address + (mebibytes + 1) * MIB):
            assert self.ask("munmap", hole, MIB) == 0
        return Range(address + MIB, address + (mebibytes + 1) * MIB)

    def mark(self, area: Range, *, on: bool = True) -> None:
        """As a program that knows of KSM does."""
        assert self.ask("madvise", area.start, area.size, 12 if on else 13) == 0

    def marked(self, area: Range) -> int:
        """Bytes of the area that are mergeable, straight from smaps."""
        found = start = end = 0
        for line in Path(f"/proc/{self.process.pid}/smaps").read_text().splitlines():
            head = line.split(" ", 1)[0]
            if "-" in head:
                start, end = (int(number, 16) for number in head.split("-"))
            elif head == "VmFlags:" and "mg" in line.split():
                found += max(0, min(end, area.end) - max(start, area.start))
        return found


@pytest.fixture
def program(start: Start) -> Program:
    """One such target."""
    return Program(start(code=PROGRAM))


@pytest.fixture
def by_ranges(features: KernelFeatures) -> KernelFeatures:
    """This kernel, as if it had no prctl."""
    return replace(features, method="Madvise")


def intent_of(program: Program, features: KernelFeatures, before: Marks | None = None) -> Intent:
    """What is about to be done to it."""
    intent = prepare(program.process, features, before)
    assert isinstance(intent, Intent), intent
    return intent


def advised(tracer: Tracer, intent: Intent) -> Marks:
    """What is on record afterwards."""
    result = carry_out(intent, tracer)
    assert isinstance(result, Advised)
    return result.marks


def covers(ranges: tuple[Range, ...], area: Range) -> bool:
    """Whether the area lies in one of them."""
    return any(each.start <= area.start and area.end <= each.end for each in ranges)


def test_populated_memory_is_marked_and_really_merged(
    ksmd: None, program: Program, tracer: Tracer, by_ranges: KernelFeatures
) -> None:
    """The marks are in the kernel, and ksmd acts on them."""
    area = program.map(8)
    intent = intent_of(program, by_ranges)
    assert intent.marks.method == "Madvise"
    marks = advised(tracer, intent)
    assert covers(marks.ranges, area)
    assert program.marked(area) == area.size
    wait_until(lambda: merged_kib(program) > 4096, "merged pages")
    assert release(program.process, tracer, lambda: None, marks=marks).done
    assert program.marked(area) == 0
    assert merged_kib(program) == 0
    program.target.tell("end")
    assert program.target.popen.wait(10) == 0


def merged_kib(program: Program) -> int:
    """Merged memory, from smaps where the kernel says it (6.6), else by ksmd's own count."""
    text = Path(f"/proc/{program.process.pid}/smaps_rollup").read_text()
    for line in text.splitlines():
        if line.startswith("KSM:"):
            return int(line.split()[1])
    if program.marked(Range(0, 1 << 47)) == 0:
        return 0  # that count is stale until the next scan
    return kernel.merged_pages(program.process.pid) * 4


def test_it_follows_growth_and_touches_nothing_twice(
    program: Program, tracer: Tracer, by_ranges: KernelFeatures
) -> None:
    """A process that grows is visited again for what is new, and only for that."""
    first = program.map(4)
    marks = advised(tracer, intent_of(program, by_ranges))
    second = program.map(4)
    intent = intent_of(program, by_ranges, marks)
    assert covers(intent.marks.intended, second)
    assert not covers(intent.marks.intended, first)
    marks = advised(tracer, intent)
    assert program.marked(first) == first.size
    assert program.marked(second) == second.size
    for _ in range(3):  # the interpreter itself may have grown by a little
        with contextlib.suppress(Postponed):
            marks = advised(tracer, intent_of(program, by_ranges, marks))
    with pytest.raises(Postponed) as caught:
        prepare(program.process, by_ranges, marks)
    assert caught.value.reason == "NothingToMark"


def test_what_the_program_withdraws_stays_withdrawn(
    program: Program, tracer: Tracer, by_ranges: KernelFeatures
) -> None:
    """Its own word on its own memory is the last one."""
    area = program.map(4)
    marks = advised(tracer, intent_of(program, by_ranges))
    program.mark(area, on=False)
    with contextlib.suppress(Postponed):
        advised(tracer, intent_of(program, by_ranges, marks))
    assert program.marked(area) == 0


def test_the_programs_own_marks_are_not_ours_to_give_back(
    program: Program, tracer: Tracer, by_ranges: KernelFeatures
) -> None:
    """A program that merges by itself must go on doing so."""
    own, other = program.map(4), program.map(4)
    program.mark(own)
    marks = advised(tracer, intent_of(program, by_ranges))
    assert not covers(marks.ranges, own)
    assert program.marked(other) == other.size
    assert release(program.process, tracer, lambda: None, marks=marks).done
    assert program.marked(own) == own.size
    assert program.marked(other) == 0


def test_locked_ranges_are_left_alone(
    program: Program, tracer: Tracer, by_ranges: KernelFeatures
) -> None:
    """A key store of a library is tolerated in a process, and stays as it is."""
    area = program.map(4)
    locked = Range(area.start + MIB, area.start + MIB + 32768)
    assert program.ask("mlock", locked.start, locked.size) == 0
    advised(tracer, intent_of(program, by_ranges))
    assert program.marked(area) == area.size - locked.size
    assert program.marked(locked) == 0


def test_a_range_that_went_away_meanwhile(
    program: Program, tracer: Tracer, by_ranges: KernelFeatures
) -> None:
    """What is reported as done is what is there, not what was planned."""
    gone, stays = program.map(4), program.map(4)
    intent = intent_of(program, by_ranges)
    assert program.ask("munmap", gone.start, gone.size) == 0
    ranges = advised(tracer, intent).ranges
    assert covers(ranges, stays)
    assert not any(each.start < gone.end and gone.start < each.end for each in ranges)


def test_giving_back_waits_for_room(
    ksmd: None, program: Program, tracer: Tracer, by_ranges: KernelFeatures
) -> None:
    """What does not fit stays marked and is named, so that it is tried again."""
    area = program.map(8)
    marks = advised(tracer, intent_of(program, by_ranges))
    wait_until(lambda: merged_kib(program) > 4096, "merged pages")
    progress = release(program.process, tracer, lambda: 0, marks=marks)
    assert progress.reason == "NoHeadroom"
    assert program.marked(area) > 0
    assert release(program.process, tracer, lambda: None, marks=marks).done
    assert program.marked(area) == 0


def test_a_record_is_of_one_program_only(
    program: Program, tracer: Tracer, by_ranges: KernelFeatures
) -> None:
    """After an exec the same addresses may be marked by another program, for itself."""
    area = program.map(4)
    marks = advised(tracer, intent_of(program, by_ranges))
    of_another = replace(marks, program=marks.program + 4096)
    assert release(program.process, tracer, lambda: None, marks=of_another).done
    assert program.marked(area) == area.size
    assert release(program.process, tracer, lambda: None, marks=marks).done
    assert program.marked(area) == 0


def test_excluded_processes_are_refused_in_this_way_too(
    start: Start, by_ranges: KernelFeatures
) -> None:
    """The method changes nothing about who may merge."""
    locked = start(
        code="""
import ctypes, sys
ctypes.CDLL(None).mlockall(1)
print("ready", flush=True)
sys.stdin.readline()
"""
    )
    with pytest.raises(Refused) as caught:
        prepare(locked.process, by_ranges)
    assert caught.value.reason == SkipReason.LOCKED_MEMORY


def test_own_marks_survive_an_enrolment_by_prctl(
    program: Program, tracer: Tracer, prctl: KernelFeatures
) -> None:
    """Switching the whole process off takes the program's own marks along: they come back."""
    kept, dropped, plain = program.map(4), program.map(4), program.map(4)
    program.mark(kept)
    program.mark(dropped)
    assert enrol(program.process, tracer) == AlreadyMergeable(program.process, "Madvise")
    intent = intent_of(program, prctl)
    assert set(intent.marks.own) == {kept, dropped}
    assert isinstance(carry_out(intent, tracer), Enrolled)
    assert merges_everything(program.process)
    assert program.marked(plain) == plain.size
    assert program.ask("munmap", dropped.start, dropped.size) == 0
    assert release(program.process, tracer, lambda: None, marks=intent.marks).done
    assert program.marked(kept) == kept.size
    assert program.marked(plain) == 0
    assert not merges_everything(program.process)


def test_marks_made_after_the_record_hold_the_prctl_up(
    program: Program, tracer: Tracer, prctl: KernelFeatures
) -> None:
    """A mark that no record knows could not be brought back."""
    program.map(4)
    intent = intent_of(program, prctl)
    late = program.map(4)
    program.mark(late)
    with pytest.raises(Postponed) as caught:
        carry_out(intent, tracer)
    assert caught.value.reason == "MarksChanged"
    assert not merges_everything(program.process)
    assert isinstance(carry_out(intent_of(program, prctl), tracer), Enrolled)
    release(program.process, tracer, lambda: None)


def test_one_that_merges_everything_is_told_from_one_with_marks(
    start: Start, tracer: Tracer, prctl: KernelFeatures
) -> None:
    """Before 6.14 the kernel does not say it: taken for marks, it would never be released."""
    first = "import ctypes; ctypes.CDLL(None).prctl(67, 1, 0, 0, 0)"
    merges = Program(start(code=first + PROGRAM))
    marks = Program(start(code=PROGRAM))
    marks.mark(marks.map(1))
    assert enrol(merges.process, tracer) == AlreadyMergeable(merges.process, "Prctl")
    assert enrol(marks.process, tracer) == AlreadyMergeable(marks.process, "Madvise")
    assert prepare(merges.process, prctl) == AlreadyMergeable(merges.process, "Prctl")
    assert (merges_everything(merges.process), merges_everything(marks.process)) == (True, False)
