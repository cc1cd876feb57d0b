"""Giving a process its own pages back, in steps that nobody is killed for, then merging off.

Unmerging allocates a page for every merged one and charges it to the process's cgroup, so each
step first asks how much room there is. The mmap lock is held for one step only: the other threads
of the process wait for milliseconds, not for the whole release.

`MADV_UNMERGEABLE` on kernels without commit f04aad36a07c (October 2025, and stable backports) drops
VMA flags above bit 31: protection keys, userfaultfd minor faults, shadow stacks. Whether a kernel
has the fix cannot be told from its version, so ranges with such flags are left to the one call
that switches the whole process off, once they fit; `chunked=False` leaves all ranges to it.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.enrol import check_answer, set_merge
from ksm_operator.kernel.errors import Postponed
from ksm_operator.kernel.headroom import within
from ksm_operator.kernel.procfs import PROC, Process, page_size, read_ksm_stat
from ksm_operator.kernel.remote import Syscall
from ksm_operator.kernel.smaps import Vma, read_merged_bytes, read_vmas
from ksm_operator.kernel.steps import run

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from ksm_operator.kernel.tracer import RemoteCalls

MADV_UNMERGEABLE: Final = getattr(mmap, "MADV_UNMERGEABLE", 13)

CHUNK_BYTES: Final = 2 << 20
"""Merged memory given back in one step: 2 to 4 ms of work for the kernel."""

SPARSE_CHUNK_BYTES: Final = 256 << 20
"""Address space covered in one step where little of it is merged.

Before 6.19 the kernel walks every address of it, 3.8 ms per 256 MiB.
"""

SMALLEST_CHUNK_BYTES: Final = 64 << 10

MARGIN_BYTES: Final = 4 << 20
"""Most room that a step leaves untouched: the process goes on allocating, counters lag behind."""

ROUNDS: Final = 8
"""Looks at the process in one call: ksmd may merge behind us until merging is off."""

OFF_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class ReleaseProgress:
    """How far a release came.

    Attributes:
        done: nothing of the process is mergeable or merged any more.
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


@dataclass(frozen=True, slots=True)
class Chunk:
    """One step.

    Attributes:
        start: first address.
        length: bytes of address space.
        worst_bytes: most memory that it can cost.
    """

    start: int
    length: int
    worst_bytes: int


def needs_step(vma: Vma, zero_bytes: int) -> bool:
    """True if a range must be given back before merging is switched off.

    Ranges without merged pages need no memory, but switching off walks all their addresses: large
    ones are taken in steps as well, unless they were never touched. Where pages of zeroes were
    merged (`zero_bytes`), smaps does not say in which range. A range with flags that the step might
    drop (see the module) takes none.
    """
    large = vma.size > SPARSE_CHUNK_BYTES and vma.anonymous_bytes > 0
    merged = vma.ksm_bytes + zero_bytes > 0
    return vma.is_mergeable and not vma.has_high_flags and (merged or large)


def chunks(vma: Vma, chunk_bytes: int, zero_bytes: int) -> list[Chunk]:
    """Cut a range into steps of about `chunk_bytes` merged memory each, page-aligned.

    What a step may cost is bounded by its length and by what the whole range has merged.
    """
    most = vma.ksm_bytes + zero_bytes
    density = min(1.0, most / vma.size)
    length = int(chunk_bytes / density) if density else SPARSE_CHUNK_BYTES
    length = aligned(min(length, SPARSE_CHUNK_BYTES))
    starts = range(vma.start, vma.end, length)
    steps = ((start, min(length, vma.end - start)) for start in starts)
    return [Chunk(start, step, min(step, most)) for start, step in steps]


def aligned(length: int) -> int:
    """Down to a multiple of the largest page size, and at least one of them."""
    return max(SMALLEST_CHUNK_BYTES, length // SMALLEST_CHUNK_BYTES * SMALLEST_CHUNK_BYTES)


def halved(chunk: Chunk) -> tuple[Chunk, Chunk] | None:
    """Two halves of a step that does not fit; None when it is as small as steps get."""
    if chunk.length < 2 * SMALLEST_CHUNK_BYTES:
        return None
    half = aligned(chunk.length // 2)
    rest = chunk.length - half
    return (
        Chunk(chunk.start, half, min(half, chunk.worst_bytes)),
        Chunk(chunk.start + half, rest, min(rest, chunk.worst_bytes)),
    )


class _Release:
    """One call of `release`."""

    def __init__(
        self,
        process: Process,
        tracer: RemoteCalls,
        headroom: Callable[[], int | None],
        *,
        proc: Path,
        chunk_bytes: int = CHUNK_BYTES,
        wanted: Callable[[Chunk], bool] = lambda _: True,
    ) -> None:
        self.process = process
        self.tracer = tracer
        self.headroom = headroom
        self.chunk_bytes = chunk_bytes
        self.wanted = wanted
        self.proc = proc

    def remaining(self) -> int:
        return read_merged_bytes(self.process, proc=self.proc)

    def flag(self) -> bool | None:
        return read_ksm_stat(self.process, proc=self.proc).merge_any

    def fits(self, need: int) -> bool:
        return within(need, self.headroom(), MARGIN_BYTES)

    def give_back(self) -> Generator[None, None, bool]:
        """All ranges, step by step; False when the next step does not fit."""
        stat = read_ksm_stat(self.process, proc=self.proc)
        zero_bytes = (stat.zero_pages or 0) * page_size()
        for vma in read_vmas(self.process, proc=self.proc):
            if not needs_step(vma, zero_bytes):
                continue
            pending = chunks(vma, self.chunk_bytes, zero_bytes)[::-1]
            while pending:
                chunk = pending.pop()
                if not self.wanted(chunk):
                    continue
                if self.fits(chunk.worst_bytes):
                    self.unmerge(chunk)
                    yield
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
    chunk_bytes: int = CHUNK_BYTES,
    chunked: bool = True,
    proc: Path = PROC,
) -> ReleaseProgress:
    """Give a process that `enrol` enrolled its own pages back and switch merging off.

    What does not fit into the headroom stays merged; call again when there is more.

    Args:
        process: who.
        tracer: makes the process run the calls.
        headroom: asked before every step; bytes that the process's cgroups and the node can take
            now, or None for no limit.
        chunk_bytes: merged memory given back in one step.
        chunked: False on kernels where MADV_UNMERGEABLE is not safe; see the module.
        proc: the proc file system.

    Raises:
        ProcessGone: it exited, and holds nothing any more.
        RemoteCallFailed: the kernel refused a call for another reason than memory.
    """
    return run(
        release_steps(
            process, tracer, headroom, chunk_bytes=chunk_bytes, chunked=chunked, proc=proc
        )
    )


def release_steps(
    process: Process,
    tracer: RemoteCalls,
    headroom: Callable[[], int | None],
    *,
    chunk_bytes: int = CHUNK_BYTES,
    chunked: bool = True,
    proc: Path = PROC,
) -> Generator[None, None, ReleaseProgress]:
    """The same as `release`, step by step: its caller may do other things in between, or end it."""
    act = _Release(process, tracer, headroom, chunk_bytes=chunk_bytes, proc=proc)
    before = act.remaining()
    try:
        reason = yield from _run(act, chunked=chunked)
    except Postponed as error:
        reason = error.reason
    remaining = act.remaining()
    freed = max(0, before - remaining)
    return ReleaseProgress(reason is None, remaining, reason, freed)


def give_back_steps(
    process: Process,
    tracer: RemoteCalls,
    headroom: Callable[[], int | None],
    wanted: Callable[[Chunk], bool],
    *,
    chunk_bytes: int = CHUNK_BYTES,
    proc: Path = PROC,
) -> Generator[None, None, None]:
    """Give a process its own pages back in the ranges that are wanted, step by step.

    Those stay unmergeable; merging stays on for all others, and for memory that is mapped later.
    Ends early where there is no room or the process cannot make calls now.

    Args:
        process: who.
        tracer: makes the process run the calls.
        headroom: see `release`.
        wanted: asked of each range before it is given back; the next step follows only when it was.
        chunk_bytes: merged memory given back in one step.
        proc: the proc file system.

    Raises:
        ProcessGone, RemoteCallFailed: see `release`.
    """
    act = _Release(process, tracer, headroom, wanted=wanted, chunk_bytes=chunk_bytes, proc=proc)
    with contextlib.suppress(Postponed):
        yield from act.give_back()


def _run(act: _Release, *, chunked: bool) -> Generator[None, None, str | None]:
    """Returns why it is not done; None when it is."""
    for attempt in range(ROUNDS):
        if _is_off(act) and (attempt or act.flag() is False):
            return None
        if chunked and not (yield from act.give_back()):
            return "NoHeadroom"
        if not act.switch_off():
            return "NoHeadroom"
        yield
    return None if _is_off(act) else "StillMergeable"


def _is_off(act: _Release) -> bool:
    """What the process's ranges say counts: the flag alone does not tell of madvise."""
    if act.flag() or act.remaining():
        return False
    return not any(vma.is_mergeable for vma in read_vmas(act.process, proc=act.proc))
