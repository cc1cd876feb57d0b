"""Enrolling and releasing processes by hand, with a sentence about each."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from ksm_operator.kernel import (
    Advised,
    AlreadyMergeable,
    Enrolled,
    KernelError,
    KernelFeatures,
    Marks,
    Postponed,
    Process,
    ProcessGone,
    Refused,
    ReleaseProgress,
    Rooms,
    SkipReason,
    Tracer,
    carry_out,
    find_process,
    is_alive,
    merges_everything,
    prepare,
    probe,
    read_vmas,
    release_all,
    settle,
)
from ksm_operator.kernel.enrol import NOTHING_TO_MARK
from ksm_operator.kernel.errors import Unsupported
from ksm_operator.node.huge_pages import HugePages
from ksm_operator.node.record import Record
from ksm_operator.node.selection import cgroup_directory, open_hierarchy, processes_in

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

RESERVE_SHARE: Final = 0.1
"""Share of the node's memory that a release by hand leaves available."""

PATIENCE_SECONDS: Final = 10.0
RETRY_SECONDS: Final = 0.1
LOOKS: Final = 5
"""Looks at a cgroup for processes that were forked since the last one."""

MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one process.

    Attributes:
        pid: as it was given.
        ok: the process is in the state that was asked for.
        result: one PascalCase word.
        text: a sentence for a person.
    """

    pid: int
    ok: bool
    result: str
    text: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


class Selected:
    """The processes that a command is about; those of cgroups are looked up anew each time."""

    def __init__(self, pids: Sequence[int], cgroups: Sequence[str]) -> None:
        """Find them.

        Raises:
            KernelError: no such cgroup, or nobody is in it.
        """
        self.hierarchy = open_hierarchy()
        self._directories = [cgroup_directory(self.hierarchy, one) for one in cgroups]
        self.missing = [pid for pid in dict.fromkeys(pids) if not _exists(pid)]
        self._named = [find_process(pid) for pid in pids if pid not in self.missing]
        if not pids and not self.now():
            raise KernelError("no process to change: name PIDs, or a --cgroup that has some")

    def now(self) -> list[Process]:
        """Those that live."""
        named = [process for process in self._named if is_alive(process)]
        return list(dict.fromkeys([*named, *processes_in(self._directories)]))


def _exists(pid: int) -> bool:
    try:
        find_process(pid)
    except ProcessGone:
        return False
    return True


def enrol_all(
    pids: Sequence[int], cgroups: Sequence[str], record: Path, huge_pages: str
) -> list[Outcome]:
    """Switch merging on in each process.

    Args:
        pids: which.
        cgroups: and all in these.
        record: the file that says what was marked.
        huge_pages: what becomes of those that live in huge pages, see `HugePages`.

    Raises:
        Unsupported: this kernel or machine cannot; nothing was touched.
        KernelError: no such cgroup, or no record can be kept; nothing was touched.
    """
    features, tracer = open_tracer()
    try:
        selected = Selected(pids, cgroups)
        huge = HugePages(huge_pages)
        act = _Enrolling(features, tracer, Record(record), huge)
        outcomes = {pid: _gone(pid) for pid in selected.missing}
        for _ in range(LOOKS):
            new = [process for process in selected.now() if process.pid not in outcomes]
            if not new:
                break
            huge.consider(new)
            for process in new:
                outcomes[process.pid] = act.enrol(process)
        return list(outcomes.values())
    finally:
        tracer.close()


def release_together(pids: Sequence[int], cgroups: Sequence[str], record: Path) -> list[Outcome]:
    """Give processes their own pages back and switch merging off, sharers before payers.

    Args:
        pids: which.
        cgroups: and all in these.
        record: the file that says what was marked.

    Raises:
        Unsupported: this kernel or machine cannot; nothing was touched.
        KernelError: no such cgroup, or the record cannot be read; nothing was touched.
    """
    features, tracer = open_tracer()
    try:
        selected, known = Selected(pids, cgroups), Record(record)
        outcomes = {
            process: outcome
            for process in selected.now()
            if (outcome := _not_ours(process, known)) is not None
        }
        act = _Releasing(features, tracer, known, Rooms(selected.hierarchy, RESERVE_SHARE))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            again = act.release_once(selected, outcomes)
            if not again or time.monotonic() > deadline:
                break
            # What was in the way passes: a thread that was busy for a moment.
            for process in again:
                del outcomes[process]
            time.sleep(RETRY_SECONDS)
        act.forget_released()
        return [*map(_gone, selected.missing), *outcomes.values()]
    finally:
        tracer.close()


def _not_ours(process: Process, record: Record) -> Outcome | None:
    """What is to be said of a process that holds nothing of ours; None for any other."""
    try:
        if record.get(process) is not None or merges_everything(process):
            return None
        is_marked = any(vma.is_mergeable for vma in read_vmas(process))
    except KernelError:
        return None
    if is_marked:
        text = "it asked for merging itself, by madvise; left as it is"
        return Outcome(process.pid, True, "AlreadyMergeable", text)
    return Outcome(process.pid, True, "Released", "merging was off already")


class _Releasing:
    """One call of `release_together`."""

    def __init__(
        self, features: KernelFeatures, tracer: Tracer, record: Record, rooms: Rooms
    ) -> None:
        self._keeps_flags = features.unmerge_keeps_flags is True
        self._tracer = tracer
        self._record = record
        self._rooms = rooms
        self._released: list[Process] = []

    def release_once(self, selected: Selected, outcomes: dict[Process, Outcome]) -> list[Process]:
        """Release each as far as there is room; returns those for whom it was a bad moment."""
        again: list[Process] = []
        settled = set(outcomes)

        def members() -> list[Process]:
            left = [process for process in selected.now() if process not in settled]
            self._record.adopt(left)
            return left

        def told(process: Process, outcome: ReleaseProgress | KernelError) -> None:
            outcomes[process] = describe_release(process, outcome)
            if isinstance(outcome, ReleaseProgress) and outcome.done:
                self._released.append(process)
            elif isinstance(outcome, ReleaseProgress) and outcome.reason != "NoHeadroom":
                again.append(process)

        for wait in release_all(
            members,
            self._tracer,
            self._rooms,
            told,
            marks_of=self._marks_of,
            keeps_flags=self._keeps_flags,
        ):
            if wait:
                time.sleep(wait)
        return again

    def forget_released(self) -> None:
        """Not before the end: till then their record tells what children have from them."""
        for process in self._released:
            self._record.put(process, None)

    def _marks_of(self, process: Process) -> Marks | None:
        return self._record.get(process)


def open_tracer() -> tuple[KernelFeatures, Tracer]:
    """What this kernel can, and what makes processes run system calls.

    Raises:
        Unsupported: this kernel or machine cannot.
    """
    features = probe()
    if features.unsupported is not None:
        raise Unsupported(features.unsupported)
    return features, Tracer()


def _gone(pid: int) -> Outcome:
    return Outcome(pid, False, "ProcessGone", str(ProcessGone(pid)))


class _Enrolling:
    """One call of `enrol_all`."""

    def __init__(
        self, features: KernelFeatures, tracer: Tracer, record: Record, huge: HugePages
    ) -> None:
        self._features = features
        self._tracer = tracer
        self._record = record
        self._huge = huge

    def enrol(self, process: Process) -> Outcome:
        """Try until it is done or refused for good, for a few seconds."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return describe_enrolment(self._once(process))
            except Postponed as error:
                if error.reason == NOTHING_TO_MARK:
                    return self._nothing_to_mark(process)
                if time.monotonic() > deadline:
                    text = f"not now, try again later ({error})"
                    return Outcome(process.pid, False, error.reason, text)
                time.sleep(RETRY_SECONDS)
            except KernelError as error:
                return _failed(process, error)

    def _once(self, process: Process) -> Enrolled | Advised | AlreadyMergeable:
        prepared = prepare(
            process,
            self._features,
            self._record.get(process),
            split_huge_pages=self._huge.may_split(process),
        )
        if isinstance(prepared, AlreadyMergeable):
            return prepared
        spared = self._huge.why_not(process)
        if spared is not None and prepared.marks.method == "Prctl":
            raise Refused(process.pid, SkipReason.HUGE_PAGES, spared)
        self._record.put(process, prepared.marks)
        try:
            result = carry_out(prepared, self._tracer)
        except KernelError:
            # The call may have been made before something came between.
            self._record.put(process, settle(process, prepared.marks))
            raise
        if isinstance(result, Advised):
            self._record.put(process, result.marks)
        return result

    def _nothing_to_mark(self, process: Process) -> Outcome:
        if self._record.get(process) is None:
            text = "nothing of it can merge: no private memory of its own is in use"
            return Outcome(process.pid, False, NOTHING_TO_MARK, text)
        text = "all of it that can merge was marked before; left as it is"
        return Outcome(process.pid, True, "AlreadyMergeable", text)


def describe_enrolment(result: Enrolled | Advised | AlreadyMergeable) -> Outcome:
    """What became of one process, for a person."""
    pid = result.process.pid
    if isinstance(result, Enrolled):
        visit = result.visit
        text = (
            f"merging is on; thread {visit.tid} made the call ({visit.caught_in}) "
            f"and stood still for {visit.stopped_ns / 1e6:.1f} ms"
        )
        return Outcome(pid, True, "Enrolled", text)
    if isinstance(result, Advised):
        ranges = result.marks.ranges
        text = (
            f"merging is on in {len(ranges)} ranges, {sum(each.size for each in ranges) / MIB:.1f} "
            "MiB, by madvise; what it maps later is marked when it is enrolled again"
        )
        return Outcome(pid, True, "Enrolled", text)
    text = f"merging was on already, by {result.by.lower()}; left as it is"
    return Outcome(pid, True, "AlreadyMergeable", text)


def _failed(process: Process, error: KernelError) -> Outcome:
    reason = getattr(error, "reason", type(error).__name__)
    return Outcome(process.pid, False, str(reason), str(error))


def describe_release(process: Process, outcome: ReleaseProgress | KernelError) -> Outcome:
    """How far a release came, for a person."""
    if isinstance(outcome, KernelError):
        return _failed(process, outcome)
    freed = f"{outcome.freed_bytes / MIB:.1f} MiB given back to it"
    if outcome.done:
        return Outcome(process.pid, True, "Released", f"merging is off, {freed}")
    reason = outcome.reason or "StillMergeable"
    if reason != "NoHeadroom":
        text = f"{freed}; not now, try again later ({reason})"
        return Outcome(process.pid, False, reason, text)
    who = {None: "its cgroup or the node", "node": "the node"}.get(
        outcome.level, f"cgroup {outcome.level}"
    )
    lacking = f" {outcome.lacking_bytes / MIB:.1f} MiB of" if outcome.lacking_bytes else ""
    text = (
        f"{freed}; {outcome.remaining_bytes / MIB:.1f} MiB stay merged, because {who} lacks"
        f"{lacking} room: raise the limit or free memory, then release again"
    )
    return Outcome(process.pid, False, reason, text)
