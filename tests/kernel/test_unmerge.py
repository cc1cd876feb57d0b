"""The steps of a release on real memory: which there are, what shares a visit, what fits."""

import errno
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from kernel.calls import get_merge
from kernel.conftest import Start, Target, wait_until
from kernel.test_release import mergeable_ranges, merged
from kernel.twins import TWINS, Twins, merged_twins
from ksm_operator.kernel import KernelFeatures, Process, Syscall, Tracer, Visit, enrol, release
from ksm_operator.kernel.chunks import WALK_BYTES
from ksm_operator.kernel.procfs import page_size
from ksm_operator.kernel.ranges import Range, joined, without

KIB = 1 << 10
MIB = 1 << 20
Fail = Callable[[Syscall], bool]


class Recorder:
    """Makes the calls and remembers them; some are said to have failed, and are not made."""

    def __init__(self, tracer: Tracer, fail: Fail = lambda _: False) -> None:
        self.visits: list[list[Syscall]] = []
        self._tracer = tracer
        self._fail = fail

    def call(self, process: Process, calls: Sequence[Syscall]) -> Visit:
        """See `Tracer.call`."""
        self.visits.append([*calls])
        made = [call for call in calls if not self._fail(call)]
        visit = self._tracer.call(process, made or [get_merge()])
        answers = iter(visit.results)
        results = tuple(next(answers) if call in made else -errno.EAGAIN for call in calls)
        return replace(visit, results=results)

    def steps(self) -> tuple[Range, ...]:
        """The addresses that were given back."""
        return joined(
            Range(call.arguments[0], call.arguments[0] + call.arguments[1])
            for calls in self.visits
            for call in calls
            if call.name == "madvise"
        )


@pytest.fixture
def twins(start: Start, ksmd: None, tracer: Tracer) -> Twins:
    """See `merged_twins`."""
    return merged_twins(start, tracer)


@pytest.fixture(scope="module")
def keeps_flags(features: KernelFeatures) -> bool:
    """Whether the steps of this kernel need no look at smaps."""
    return features.unmerge_keeps_flags is True


def test_little_room_takes_small_steps(twins: Twins, tracer: Tracer, *, keeps_flags: bool) -> None:
    """Merged pages lie apart; a step is cut where it fits, however wide the range is."""
    target, _, _ = twins
    seen = Recorder(tracer)
    room = 4 * 64 * KIB
    progress = release(target.process, seen, lambda: room, keeps_flags=keeps_flags)
    assert progress.done, progress
    assert progress.freed_bytes >= len(TWINS) * page_size()
    assert merged(target) == 0
    # Half of the room is kept as a margin.
    assert len(seen.visits) > len(TWINS) * page_size() // (room // 2)


def test_a_step_that_the_kernel_refused_is_left_to_the_last_call(
    twins: Twins, tracer: Tracer, *, keeps_flags: bool
) -> None:
    """So it says at the limit of ranges per process: where there is memory, that is no reason."""
    target, _, where = twins
    seen = Recorder(tracer, lambda call: call.arguments[0] in range(where.start, where.end))
    progress = release(target.process, seen, lambda: 64 * MIB, keeps_flags=keeps_flags)
    assert progress.done, progress
    assert merged(target) == 0
    assert mergeable_ranges(target.pid) == 0


def test_a_step_that_found_no_memory_ends_the_release(
    twins: Twins, tracer: Tracer, *, keeps_flags: bool
) -> None:
    """Where the room is gone it is not asked again, and what is left is told."""
    target, _, where = twins
    rooms = [64 * MIB]

    def fail(call: Syscall) -> bool:
        if call.arguments[0] in range(where.start, where.end):
            rooms[:] = [0]
        return rooms == [0]

    progress = release(
        target.process, Recorder(tracer, fail), lambda: rooms[0], keeps_flags=keeps_flags
    )
    assert progress.reason == "NoHeadroom"
    assert progress.remaining_bytes >= len(TWINS) * page_size()
    assert release(target.process, tracer, lambda: None, keeps_flags=keeps_flags).done


MANY = """
import ctypes, mmap, os, sys
count = int(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
area = mmap.mmap(-1, 2 * count * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
base = ctypes.addressof(ctypes.c_char.from_buffer(area))
for each in range(count):
    start = 2 * each * mmap.PAGESIZE
    area[start] = 1
    # Between any two lies one with other rights, so they stay ranges of their own, and no twin.
    area[start + mmap.PAGESIZE : start + mmap.PAGESIZE + 16] = os.urandom(16)
    page = ctypes.c_void_p(base + start + mmap.PAGESIZE)
    assert libc.mprotect(page, ctypes.c_size_t(mmap.PAGESIZE), mmap.PROT_READ) == 0
print("ready", flush=True)
print(base, flush=True)
sys.stdin.readline()
"""


def test_small_ranges_share_visits(
    start: Start, ksmd: None, tracer: Tracer, *, keeps_flags: bool
) -> None:
    """A process of many ranges is stopped a few times, not once for each."""
    count = 160
    one, two = (start(str(count), code=MANY) for _ in range(2))
    for target in (one, two):
        enrol(target.process, tracer)
    base = int(one.line())
    area = Range(base, base + 2 * count * page_size())

    wait_until(lambda: merged(one) >= count * page_size(), "every range merged")
    seen = Recorder(tracer)
    assert release(one.process, seen, lambda: None, keeps_flags=keeps_flags).done
    inside = [
        calls
        for calls in seen.visits
        if any(area.start <= call.arguments[0] < area.end for call in calls)
    ]
    assert 1 <= len(inside) <= count // 8


RESERVED = """
import ctypes, mmap, sys
kind, size = sys.argv[1], int(sys.argv[2])
rights = 0 if kind == "forbidden" else mmap.PROT_READ | mmap.PROT_WRITE
private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
base = libc.mmap(None, ctypes.c_size_t(size), rights, private, -1, ctypes.c_long(0))
if kind == "dropped":
    ctypes.memset(base, 1, 1)
    assert libc.madvise(ctypes.c_void_p(base), ctypes.c_size_t(size), mmap.MADV_DONTNEED) == 0
print("ready", flush=True)
print(base, flush=True)
sys.stdin.readline()
"""


def reserve(start: Start, kind: str, size: int) -> tuple[Target, Range]:
    """A process that has reserved so many addresses, and where."""
    target = start(kind, str(size), code=RESERVED)
    base = int(target.line())
    return target, Range(base, base + size)


def test_what_was_touched_once_is_walked_in_steps(
    start: Start, tracer: Tracer, *, keeps_flags: bool
) -> None:
    """A heap that was given back whole is walked whole: its threads would stand still for it."""
    if not keeps_flags:
        pytest.skip("a kernel whose steps drop flags is looked at by smaps: touched there is full")
    target, where = reserve(start, "dropped", 40 * WALK_BYTES)
    enrol(target.process, tracer)
    seen = Recorder(tracer)
    assert release(target.process, seen, lambda: 64 * MIB, keeps_flags=keeps_flags).done
    left = sum(each.size for each in without([where], seen.steps()))
    assert left <= WALK_BYTES
    longest = max(
        sum(call.arguments[1] for call in calls)
        for calls in seen.visits
        if calls[0].name == "madvise"
    )
    assert longest <= WALK_BYTES


def test_what_nobody_may_touch_takes_no_step(
    start: Start, tracer: Tracer, *, keeps_flags: bool
) -> None:
    """Runtimes reserve terabytes so; thousands of visits for nothing would be no better."""
    target, where = reserve(start, "forbidden", 1 << 40)
    enrol(target.process, tracer)
    seen = Recorder(tracer)
    assert release(target.process, seen, lambda: 64 * MIB, keeps_flags=keeps_flags).done
    assert without([where], seen.steps()) == (where,)
    assert mergeable_ranges(target.pid) == 0
