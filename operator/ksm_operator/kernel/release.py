"""Giving a process its own pages back, in steps that nobody is killed for, then merging off.

Unmerging allocates a page for every merged one and charges it to the process's cgroup, so each
step first asks how much room there is. The mmap lock is held for one step only: the other threads
of the process wait for milliseconds, not for the whole release.

What the program had marked itself before us is marked again afterwards; of one that was enrolled by
ranges exactly ours are given back.

`MADV_UNMERGEABLE` on kernels without commit f04aad36a07c (October 2025, and stable backports) drops
VMA flags above bit 31: protection keys, userfaultfd minor faults, shadow stacks. Unless the kernel
is known to have the fix, ranges with such flags are left to the one call that switches the whole
process off, once they fit.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.chunks import Chunk, chunks, halved, needs_step, parts_of
from ksm_operator.kernel.enrol import check_answer, set_merge
from ksm_operator.kernel.errors import Postponed
from ksm_operator.kernel.headroom import within
from ksm_operator.kernel.ksm_stat import read_ksm_stat
from ksm_operator.kernel.madvise import restore_own
from ksm_operator.kernel.marks import own_ranges, read_program
from ksm_operator.kernel.mergeable import marks_everything, merges_everything
from ksm_operator.kernel.procfs import PROC, Process
from ksm_operator.kernel.ranges import without
from ksm_operator.kernel.remote import Syscall
from ksm_operator.kernel.smaps import (
    Vma,
    read_merged_bytes,
    read_unlocated_bytes,
    read_vmas,
)
from ksm_operator.kernel.steps import run

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from pathlib import Path

    from ksm_operator.kernel.marks import Marks
    from ksm_operator.kernel.tracer import RemoteCalls

MADV_UNMERGEABLE: Final = getattr(mmap, "MADV_UNMERGEABLE", 13)

CHUNK_BYTES: Final = 2 << 20
"""Merged memory given back in one step: 2 to 4 ms of work for the kernel."""

MARGIN_BYTES: Final = 4 << 20
"""Most room that a step leaves untouched: the process goes on allocating, counters lag behind."""

ROUNDS: Final = 8
"""Looks at the process in one call: ksmd may merge behind us until merging is off."""

OFF_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class ReleaseProgress:
    """How far a release came.

    Attributes:
        done: the process is as mergeable as it was before us.
        remaining_bytes: merged memory that it still holds.
        reason: why it is not done, PascalCase: `NoHeadroom`, or that of a `Postponed`; None when
            done.
        freed_bytes: merged memory given back by this call.
        level: the cgroup that lacks room, or the node; None if that is not known or not the reason.
        lacking_bytes: how much more room it would take; 0 if that is not known.
    """

    done: bool
    remaining_bytes: int
    reason: str | None
    freed_bytes: int = 0
    level: str | None = None
    lacking_bytes: int = 0


class _Release:
    """One call of `release`."""

    def __init__(
        self,
        process: Process,
        tracer: RemoteCalls,
        headroom: Callable[[], int | None],
        marks: Marks | None,
        *,
        keeps_flags: bool,
        proc: Path,
        chunk_bytes: int = CHUNK_BYTES,
        wanted: Callable[[Chunk], bool] = lambda _: True,
    ) -> None:
        self.process = process
        self.tracer = tracer
        self.headroom = headroom
        self.keeps_flags = keeps_flags
        self.chunk_bytes = chunk_bytes
        self.wanted = wanted
        self.proc = proc
        of_this = marks is not None and marks.program == read_program(process, proc=proc)
        self.own = marks.own if marks is not None and of_this else ()
        self.ours = marks.ours if marks is not None and of_this else ()
        self.by_ranges = marks is not None and marks.method == "Madvise"

    def remaining(self) -> int:
        return read_merged_bytes(self.process, proc=self.proc)

    def vmas(self) -> list[Vma]:
        return read_vmas(self.process, proc=self.proc)

    def fits(self, need: int) -> bool:
        return within(need, self.headroom(), MARGIN_BYTES)

    def pieces(self, vmas: Sequence[Vma], unlocated_bytes: int) -> Iterator[Vma]:
        """The ranges, or parts of them, that are to be given back step by step."""
        keeps = self.keeps_flags
        if self.by_ranges:
            return (vma for vma in parts_of(vmas, self.ours) if keeps or not vma.has_high_flags)
        return (vma for vma in vmas if needs_step(vma, unlocated_bytes, keeps_flags=keeps))

    def give_back(self) -> Generator[Chunk | None, None, bool]:
        """All ranges, step by step; False when the next step does not fit.

        Yields what was given back, or None when a step was not wanted.
        """
        unlocated_bytes = read_unlocated_bytes(self.process, proc=self.proc)
        for piece in self.pieces(self.vmas(), unlocated_bytes):
            pending = chunks(piece, self.chunk_bytes, unlocated_bytes)[::-1]
            while pending:
                chunk = pending.pop()
                if not self.wanted(chunk):
                    yield None
                    continue
                if self.fits(chunk.worst_bytes):
                    self.unmerge(chunk)
                    yield chunk
                    continue
                halves = halved(chunk)
                if halves is None:
                    return False
                pending.extend(reversed(halves))
        return True

    def unmerge(self, chunk: Chunk) -> None:
        call = Syscall("madvise", (chunk.start, chunk.length, MADV_UNMERGEABLE))
        answer = self.tracer.call(self.process, [call]).results[0]
        # EAGAIN is what madvise makes of an ENOMEM from within (mm/madvise.c). Its own ENOMEM, as
        # EINVAL, says that the range was unmapped or replaced: another look at smaps shows by what.
        no_memory = answer == -errno.EAGAIN
        no_memory |= answer == -errno.ENOMEM and not self.fits(chunk.worst_bytes)
        if no_memory:
            raise Postponed(self.process.pid, "NoHeadroom", "the kernel found no memory")
        if answer not in (-errno.ENOMEM, -errno.EINVAL):
            check_answer(self.process, f"madvise({chunk.start:#x}, MADV_UNMERGEABLE)", answer)

    def switch_off(self) -> bool:
        """The prctl; False when what is still merged does not fit."""
        if not self.fits(self.remaining()):
            return False
        answer = self.tracer.call(self.process, [set_merge(on=False, seconds=OFF_SECONDS)])
        if answer.results[0] == -errno.ENOMEM:
            return False
        check_answer(self.process, "prctl(PR_SET_MEMORY_MERGE, 0)", answer.results[0])
        return True


def release(
    process: Process,
    tracer: RemoteCalls,
    headroom: Callable[[], int | None],
    *,
    marks: Marks | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    keeps_flags: bool = False,
    proc: Path = PROC,
) -> ReleaseProgress:
    """Give a process its own pages back, and make it as mergeable as it was before us.

    What does not fit into the headroom stays merged; call again when there is more.

    Args:
        process: who.
        tracer: makes the process run the calls.
        headroom: asked before every step; bytes that the process's cgroups and the node can take
            now, or None for no limit.
        marks: what is on record of it; None for the whole process, with no marks of its own.
        chunk_bytes: merged memory given back in one step.
        keeps_flags: MADV_UNMERGEABLE is known to be safe on this kernel; see the module.
        proc: the proc file system.

    Raises:
        ProcessGone: it exited, and holds nothing any more.
        RemoteCallFailed: the kernel refused a call for another reason than memory.
    """
    return run(
        release_steps(
            process,
            tracer,
            headroom,
            marks,
            chunk_bytes=chunk_bytes,
            keeps_flags=keeps_flags,
            proc=proc,
        )
    )


def release_steps(
    process: Process,
    tracer: RemoteCalls,
    headroom: Callable[[], int | None],
    marks: Marks | None = None,
    *,
    chunk_bytes: int = CHUNK_BYTES,
    keeps_flags: bool = False,
    proc: Path = PROC,
) -> Generator[Chunk | None, None, ReleaseProgress]:
    """The same as `release`, step by step: its caller may do other things in between, or end it."""
    act = _Release(
        process,
        tracer,
        headroom,
        marks,
        keeps_flags=keeps_flags,
        proc=proc,
        chunk_bytes=chunk_bytes,
    )
    before = act.remaining()
    try:
        reason = yield from _by_ranges(act) if act.by_ranges else _as_a_whole(act)
    except Postponed as error:
        reason = error.reason
    remaining = act.remaining()
    freed = max(0, before - remaining)
    # What is merged in ranges that the program marked itself is its own affair.
    return ReleaseProgress(reason is None, 0 if reason is None else remaining, reason, freed)


def give_back_steps(
    process: Process,
    tracer: RemoteCalls,
    headroom: Callable[[], int | None],
    wanted: Callable[[Chunk], bool],
    marks: Marks | None = None,
    *,
    keeps_flags: bool = False,
    chunk_bytes: int = CHUNK_BYTES,
    proc: Path = PROC,
) -> Generator[Chunk | None, None, None]:
    """Give a process its own pages back in the ranges that are wanted, step by step.

    Those stay unmergeable; merging stays on for all others, and for memory that is mapped later.
    Ends early where there is no room or the process cannot make calls now.

    Args:
        process: who.
        tracer: makes the process run the calls.
        headroom: see `release`.
        wanted: asked of each range before it is given back.
        marks: see `release`.
        keeps_flags: see `release`.
        chunk_bytes: merged memory given back in one step.
        proc: the proc file system.

    Yields:
        What was given back, or None for a range that was not wanted.

    Raises:
        ProcessGone, RemoteCallFailed: see `release`.
    """
    act = _Release(
        process,
        tracer,
        headroom,
        marks,
        chunk_bytes=chunk_bytes,
        keeps_flags=keeps_flags,
        proc=proc,
        wanted=wanted,
    )
    with contextlib.suppress(Postponed):
        yield from act.give_back()


def _by_ranges(act: _Release) -> Generator[Chunk | None, None, str | None]:
    """Returns why it is not done; None when it is."""
    for _ in range(ROUNDS):
        left = list(parts_of(act.vmas(), act.ours))
        if not left:
            return None
        if not act.keeps_flags and all(part.has_high_flags for part in left):
            return "FlagsWouldBeLost"
        if not (yield from act.give_back()):
            return "NoHeadroom"
    return "StillMergeable"


def _as_a_whole(act: _Release) -> Generator[Chunk | None, None, str | None]:
    """Returns why it is not done; None when it is."""
    # Off already: what is still marked was marked by the program itself.
    if merges_everything(act.process, proc=act.proc):
        for _ in range(ROUNDS):
            if not (yield from act.give_back()) or not act.switch_off():
                return "NoHeadroom"
            yield None
            if _is_off(act):
                break
        else:
            return "StillMergeable"
    restore_own(act.process, act.tracer, act.own, proc=act.proc)
    return None


def _is_off(act: _Release) -> bool:
    """What the process's ranges say counts: the flag alone does not tell of madvise."""
    vmas = act.vmas()
    if read_ksm_stat(act.process, proc=act.proc).merge_any or marks_everything(vmas):
        return False
    return not without(own_ranges(vmas), act.own) and (bool(act.own) or not act.remaining())
