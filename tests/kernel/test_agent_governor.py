"""The governor with the real ksmd: all is merged, within the limit, and then ksmd rests."""

import time
from collections.abc import Callable, Iterator
from typing import Literal

import pytest

from kernel.conftest import PATIENCE_SECONDS, Cgroup, Holders, Start, Target
from kernel.test_release import merged
from ksm_operator.agent.governor import Governor
from ksm_operator.agent.host import Host, boot_time
from ksm_operator.agent.knobs import Knobs, Restored
from ksm_operator.agent.settings import optional_values
from ksm_operator.agent.state import State
from ksm_operator.agent.wire import Ksmd
from ksm_operator.kernel import Hierarchy, KernelFeatures, KsmSysfs, Tracer, enrol, find_ksmd
from support import kernel

MIB = 1 << 20
SIZE = 48
FILLS_LATER = f"""
import mmap, sys
print("ready", flush=True)
sys.stdin.readline()
memory = mmap.mmap(-1, {SIZE * MIB}, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
for start in range(0, len(memory), 4096):
    memory[start : start + 8] = start.to_bytes(8, "big")
print("filled", flush=True)
sys.stdin.readline()
"""

UNEVEN = """
import mmap

def marked(pages):
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000
    memory = mmap.mmap(-1, pages * mmap.PAGESIZE, flags=flags)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    memory.madvise(mmap.MADV_MERGEABLE)
    return memory

apart, alike, sparse = marked(8192), marked(4096), marked(1 << 19)
for page in range(8192):  # told from each other by their first bytes
    at = page * mmap.PAGESIZE
    apart[at : at + 8] = (page * 0x9E3779B97F4A7C15 % 2**64).to_bytes(8, "big")
for page in range(4096):  # and these by their last
    at = page * mmap.PAGESIZE
    apart_by = (page * 0x9E3779B97F4A7C15 % 2**64).to_bytes(8, "big")
    alike[at : at + mmap.PAGESIZE] = b"x" * (mmap.PAGESIZE - 8) + apart_by
for at in range(0, len(sparse), 8 << 20):  # 2048 addresses with nothing there for each page
    sparse[at : at + 8] = at.to_bytes(8, "little")
print("ready", flush=True)
import sys
sys.stdin.readline()
"""
"""What a page of it costs ksmd differs by far, and changes amid each scan (MAP_NORESERVE)."""
WINDOW = 10.0


class Governed:
    """Ksmd with a governor, as the agent's loop lets it work."""

    def __init__(self, host: Host) -> None:
        self.state = State("boot")
        self.knobs = Knobs(host.sysfs, self.state, lambda: None)
        self.governor = Governor(host, self.knobs)
        self.ksmd = Ksmd(cpu_limit_milli_cpu=500)
        self.containers = 0
        self.paths: list[str] = []
        self.hurry = False

    def enrol(self, target: Target, tracer: Tracer) -> Target:
        """A new container."""
        enrol(target.process, tracer)
        self.containers += 1
        return target

    def until(self, done: Callable[[], object], what: str) -> None:
        """Let it work until something is so."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not done():
            _, pause = self.governor.step(self.ksmd, self.containers, self.paths, hurry=self.hurry)
            time.sleep(pause)
            assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS} s: {what}"

    def spends(self, seconds: float, *, limit: float) -> float:
        """Let it work so long; the most that ksmd used of what it may over any ten seconds.

        A look that comes late, on a machine that is busy, lets ksmd take as much more as it was
        late by, and no more than that. So that is no fault of the limit's and is left out.
        """
        looks: list[tuple[float, float, float]] = []
        most, first, due = 0.0, 0, time.monotonic()
        ends = due + seconds
        while due < ends:
            began = time.monotonic()
            _, pause = self.governor.step(self.ksmd, self.containers, self.paths, hurry=self.hurry)
            now = time.monotonic()
            looks.append((now, kernel.ksmd_cpu_seconds(), now - due))
            due = began + pause
            while now - looks[first + 1 if len(looks) > 1 else 0][0] >= WINDOW:
                first += 1
            at, cpu, _ = looks[first]
            if now - at >= WINDOW:
                used = looks[-1][1] - cpu - max(late for _, _, late in looks[first:])
                most = max(most, used / (limit * (now - at)))
            time.sleep(max(0.0, due - time.monotonic()))
        return most

    def rests(self) -> bool:
        """Whether nothing new is scanned for."""
        pace = self.governor.scanning.pace if self.governor.scanning is not None else None
        return pace is not None and pace.period > 0 and not pace.waiting


@pytest.fixture
def governed(
    ksm_settings: dict[str, bytes], hierarchy: Hierarchy, features: KernelFeatures, tracer: object
) -> Iterator[Governed]:
    """A governor of this machine; what it writes is given back by its own baseline."""
    ksmd = find_ksmd()
    assert ksmd is not None
    host = Host(
        sysfs=KsmSysfs(),
        hierarchy=hierarchy,
        features=features,
        tracer=tracer,  # type: ignore[arg-type] # never asked
        boot_time=boot_time(),
        ksmd=ksmd,
    )
    before = kernel.settings()
    made = Governed(host)
    yield made
    assert made.knobs.restore() == Restored()
    assert kernel.settings() == before


def all_merged(*targets: Target, size: int = SIZE) -> bool:
    """Whether they hold next to nothing of what they wrote alone."""
    return all(merged(one) >= 0.98 * size * MIB for one in targets)


def test_all_is_merged_and_then_ksmd_rests(
    governed: Governed, holder: Holders, tracer: Tracer
) -> None:
    """What a policy is for, and what its nodes pay for it once that is done."""
    pair = [governed.enrol(holder(SIZE), tracer) for _ in range(2)]
    governed.until(lambda: all_merged(*pair), "the pair is merged")
    governed.until(governed.rests, "the burst is over")
    assert kernel.counter("run") == 1
    late = governed.enrol(holder(SIZE), tracer)
    governed.until(lambda: all_merged(late), "one that came later is merged")


@pytest.mark.parametrize("tuning", ["Auto", "Fixed"])
def test_the_limit_holds_over_any_ten_seconds(
    governed: Governed, start: Start, tuning: Literal["Auto", "Fixed"]
) -> None:
    """Where a page costs little now and much then, and holes cost without being counted."""
    limit, pages, sleep = 0.2, None, None
    if tuning == "Fixed":
        pages, sleep = 1_000_000, 1
    start(code=UNEVEN)
    governed.ksmd = Ksmd(
        tuning=tuning,
        cpu_limit_milli_cpu=round(limit * 1000),
        pages_to_scan=pages,
        sleep_milliseconds=sleep,
    )
    # A burst that does not end, because somebody waits; the holes of its first scan are a surprise.
    governed.hurry = True
    scans = kernel.counter("full_scans")
    governed.until(lambda: kernel.counter("full_scans") > scans + 1, "it has met the holes")
    assert governed.spends(20.0, limit=limit) <= 1.1
    governed.hurry = False
    assert governed.spends(12.0, limit=limit) <= 1.1


def test_what_comes_long_after_the_enrolment_is_merged(
    governed: Governed, start: Start, cgroup: Cgroup, hierarchy: Hierarchy, tracer: Tracer
) -> None:
    """A container is enrolled before it has any memory, and no scan may be due for minutes."""
    pair = [governed.enrol(start(code=FILLS_LATER), tracer) for _ in range(2)]
    for one in pair:
        cgroup.add(one.pid)
    governed.paths = [hierarchy.name(cgroup.directory)]
    governed.until(governed.rests, "the burst is over")
    for one in pair:
        one.tell("fill")
        assert one.line() == "filled"
    governed.until(lambda: not governed.rests(), "it is scanned for")
    governed.until(lambda: all_merged(*pair), "it is merged")


def test_those_that_are_passed_over_meet_their_like(
    governed: Governed, holder: Holders, tracer: Tracer
) -> None:
    """Smart scan looks at old pages in one scan of nine, and two that it skips never meet."""
    if not (kernel.KSM / "smart_scan").exists():
        pytest.skip("this kernel has no smart scan (6.7)")
    governed.ksmd = Ksmd(
        tuning="Fixed",
        cpu_limit_milli_cpu=1000,
        pages_to_scan=20000,
        sleep_milliseconds=1,
        smart_scan=True,
    )
    governed.knobs.apply(optional_values(governed.ksmd))
    kinds, size = [holder, *(holder.others() for _ in range(4))], 8
    old = []
    for kind in kinds:  # which scans each is passed over in differs with its age
        old.append(governed.enrol(kind(size), tracer))
        scans = kernel.counter("full_scans")
        governed.until(lambda scans=scans: kernel.counter("full_scans") > scans + 30, "it is old")  # type: ignore[misc]
    governed.ksmd = Ksmd(cpu_limit_milli_cpu=500)
    governed.governor.forget()
    new = [governed.enrol(kind(size), tracer) for kind in kinds]
    governed.until(lambda: all_merged(*old, *new, size=size), "they are merged")


def test_it_makes_haste_for_who_waits(governed: Governed, holder: Holders, tracer: Tracer) -> None:
    """A release on an old kernel is over only when a scan has corrected the counters."""
    governed.enrol(holder(SIZE), tracer)
    governed.until(governed.rests, "the burst is over")
    scans = kernel.counter("full_scans")
    governed.hurry = True
    governed.until(lambda: kernel.counter("full_scans") > scans + 5, "it scans")
    governed.hurry = False
    governed.until(governed.rests, "the burst is over again")


def test_the_kernels_advisor(governed: Governed) -> None:
    """It chooses the batches, within the limit; what it changed is given back."""
    mode = kernel.KSM / "advisor_mode"
    governed.ksmd = Ksmd(tuning="Advisor", cpu_limit_milli_cpu=300)
    troubles = governed.knobs.apply(optional_values(governed.ksmd))
    governed.until(lambda: kernel.counter("run") == 1, "ksmd runs")
    if not mode.exists():  # the policy is for many nodes, and not all have Linux 6.8
        assert troubles.missing == ("advisor_max_cpu",)
        return
    assert "[scan-time]" in mode.read_text()
    assert kernel.counter("advisor_max_cpu") == 30
    assert governed.knobs.notice().pages_to_scan, "what the advisor writes is nobody's"
    assert not governed.state.yielded
    governed.ksmd = Ksmd()
    governed.governor.forget()
    governed.until(lambda: "[none]" in mode.read_text(), "it is off")
