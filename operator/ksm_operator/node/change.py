"""Enrolling and releasing processes by their pids, with a sentence about each."""

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
    Tracer,
    enrol,
    find_memory_hierarchy,
    find_process,
    memory_headroom,
    node_headroom,
    probe,
    read_meminfo,
    release,
)
from ksm_operator.kernel.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ksm_operator.kernel import Hierarchy

RESERVE_SHARE: Final = 0.1
"""Share of the node's memory that a release by hand leaves available."""

PATIENCE_SECONDS: Final = 10.0
RETRY_SECONDS: Final = 0.1


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


def enrol_all(pids: Sequence[int]) -> list[Outcome]:
    """Switch merging on in each process.

    Raises:
        Unsupported: this kernel or machine cannot; nothing was touched.
    """
    tracer = _tracer()
    try:
        return [_attempt(pid, lambda process: _enrol(process, tracer)) for pid in pids]
    finally:
        tracer.close()


def release_all(pids: Sequence[int]) -> list[Outcome]:
    """Give each process its own pages back and switch merging off.

    Raises:
        Unsupported: this kernel or machine cannot; nothing was touched.
    """
    tracer = _tracer()
    hierarchy = find_memory_hierarchy()
    try:
        return [_attempt(pid, lambda process: _release(process, tracer, hierarchy)) for pid in pids]
    finally:
        tracer.close()


def _tracer() -> Tracer:
    features = probe()
    if features.unsupported is not None:
        raise Unsupported(features.unsupported)
    return Tracer()


def _attempt(pid: int, act: Callable[[Process], Outcome]) -> Outcome:
    """Try until it is done or refused for good, for a few seconds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return act(find_process(pid))
        except Postponed as error:
            if time.monotonic() > deadline:
                return Outcome(pid, False, error.reason, f"not now, try again later ({error})")
            time.sleep(RETRY_SECONDS)
        except ProcessGone as error:
            return Outcome(pid, False, "ProcessGone", str(error))
        except KernelError as error:
            reason = getattr(error, "reason", type(error).__name__)
            return Outcome(pid, False, str(reason), str(error))


def _enrol(process: Process, tracer: Tracer) -> Outcome:
    result = enrol(process, tracer)
    if isinstance(result, Enrolled):
        visit = result.visit
        text = (
            f"merging is on; thread {visit.tid} made the call ({visit.caught_in}) "
            f"and stood still for {visit.stopped_ns / 1e6:.1f} ms"
        )
        return Outcome(process.pid, True, "Enrolled", text)
    text = f"merging was on already, by {result.by.lower()}; left as it is"
    return Outcome(process.pid, True, "AlreadyMergeable", text)


def headroom(process: Process, hierarchy: Hierarchy) -> int:
    """Bytes that the process's cgroups and the node can take now."""
    meminfo = read_meminfo()
    node = node_headroom(meminfo, int(meminfo["MemTotal"] * RESERVE_SHARE))
    cgroup = memory_headroom(hierarchy, hierarchy.directory(process.pid))
    return node if cgroup is None else min(node, cgroup)


def _release(process: Process, tracer: Tracer, hierarchy: Hierarchy) -> Outcome:
    progress = release(process, tracer, lambda: headroom(process, hierarchy))
    freed = f"{progress.freed_bytes >> 20} MiB given back to it"
    if progress.done:
        return Outcome(process.pid, True, "Released", f"merging is off, {freed}")
    if progress.reason != "NoHeadroom":
        raise Postponed(process.pid, progress.reason or "StillMergeable")
    text = (
        f"{freed}; {progress.remaining_bytes >> 20} MiB stay merged, because its cgroup or the "
        "node has no room for more: raise the limit or free memory, then release again"
    )
    return Outcome(process.pid, False, "NoHeadroom", text)
