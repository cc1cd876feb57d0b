"""Enrolling and releasing processes by hand, with a sentence about each."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from ksm_operator.kernel import (
    Enrolled,
    KernelError,
    Postponed,
    Process,
    ProcessGone,
    ReleaseProgress,
    Rooms,
    Tracer,
    enrol,
    find_process,
    is_alive,
    probe,
    read_ksm_stat,
    release_all,
)
from ksm_operator.kernel.errors import Unsupported
from ksm_operator.node.selection import cgroup_directory, open_hierarchy, processes_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

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


def enrol_all(pids: Sequence[int], cgroups: Sequence[str]) -> list[Outcome]:
    """Switch merging on in each process.

    Raises:
        Unsupported: this kernel or machine cannot; nothing was touched.
        KernelError: no such cgroup; nothing was touched.
    """
    tracer = open_tracer()
    try:
        selected = Selected(pids, cgroups)
        outcomes = {pid: _gone(pid) for pid in selected.missing}
        for _ in range(LOOKS):
            new = [process for process in selected.now() if process.pid not in outcomes]
            if not new:
                break
            for process in new:
                outcomes[process.pid] = _enrol(process, tracer)
        return list(outcomes.values())
    finally:
        tracer.close()


def release_together(pids: Sequence[int], cgroups: Sequence[str]) -> list[Outcome]:
    """Give processes their own pages back and switch merging off, sharers before payers.

    Raises:
        Unsupported: this kernel or machine cannot; nothing was touched.
        KernelError: no such cgroup; nothing was touched.
    """
    tracer = open_tracer()
    try:
        selected = Selected(pids, cgroups)
        rooms = Rooms(selected.hierarchy, RESERVE_SHARE)
        outcomes: dict[Process, Outcome] = {}
        for process in filter(_asked_by_madvise, selected.now()):
            text = "it asked for merging itself, by madvise; left as it is"
            outcomes[process] = Outcome(process.pid, True, "AlreadyMergeable", text)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            again: list[Process] = []
            _release_once(_but(selected, outcomes), tracer, rooms, outcomes, again)
            if not again or time.monotonic() > deadline:
                break
            # What was in the way passes: a thread that was busy for a moment.
            for process in again:
                del outcomes[process]
            time.sleep(RETRY_SECONDS)
        return [*map(_gone, selected.missing), *outcomes.values()]
    finally:
        tracer.close()


def _asked_by_madvise(process: Process) -> bool:
    """Merging in ranges only: not what this command's enrolling leaves (prctl)."""
    try:
        stat = read_ksm_stat(process)
    except KernelError:
        return False
    return stat.merge_any is False and bool(stat.mergeable)


def _but(selected: Selected, outcomes: dict[Process, Outcome]) -> Callable[[], Iterable[Process]]:
    settled = set(outcomes)
    return lambda: [process for process in selected.now() if process not in settled]


def _release_once(
    members: Callable[[], Iterable[Process]],
    tracer: Tracer,
    rooms: Rooms,
    outcomes: dict[Process, Outcome],
    again: list[Process],
) -> None:
    def told(process: Process, outcome: ReleaseProgress | KernelError) -> None:
        outcomes[process] = describe_release(process, outcome)
        if isinstance(outcome, ReleaseProgress) and outcome.reason not in (None, "NoHeadroom"):
            again.append(process)

    for wait in release_all(members, tracer, rooms, told):
        if wait:
            time.sleep(wait)


def open_tracer() -> Tracer:
    """What makes processes run system calls.

    Raises:
        Unsupported: this kernel or machine cannot.
    """
    features = probe()
    if features.unsupported is not None:
        raise Unsupported(features.unsupported)
    return Tracer()


def _gone(pid: int) -> Outcome:
    return Outcome(pid, False, "ProcessGone", str(ProcessGone(pid)))


def _enrol(process: Process, tracer: Tracer) -> Outcome:
    """Try until it is done or refused for good, for a few seconds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            result = enrol(process, tracer)
            break
        except Postponed as error:
            if time.monotonic() > deadline:
                text = f"not now, try again later ({error})"
                return Outcome(process.pid, False, error.reason, text)
            time.sleep(RETRY_SECONDS)
        except KernelError as error:
            return _failed(process, error)
    if isinstance(result, Enrolled):
        visit = result.visit
        text = (
            f"merging is on; thread {visit.tid} made the call ({visit.caught_in}) "
            f"and stood still for {visit.stopped_ns / 1e6:.1f} ms"
        )
        return Outcome(process.pid, True, "Enrolled", text)
    text = f"merging was on already, by {result.by.lower()}; left as it is"
    return Outcome(process.pid, True, "AlreadyMergeable", text)


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
