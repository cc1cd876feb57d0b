"""Giving a process its own pages back, in steps that nobody is killed for, then merging off.

Unmerging allocates a page for every merged one and charges it to the process's cgroup, so each
step first asks how much room there is. The memory map lock is held for one step only: the other
threads of the process wait for milliseconds, not for the whole release. The steps are `unmerge`'s.

What the program had marked itself before us is marked again afterwards; of one that was enrolled by
ranges exactly ours are given back.

`MADV_UNMERGEABLE` on kernels without commit f04aad36a07c (October 2025, and stable backports) drops
VMA flags above bit 31: protection keys, userfaultfd minor faults, shadow stacks. Unless the kernel
is known to have the fix, ranges with such flags are left to the one call that switches the whole
process off, once they fit.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.chunks import parts_of
from ksm_operator.kernel.errors import Postponed
from ksm_operator.kernel.ksm_stat import read_ksm_stat
from ksm_operator.kernel.madvise import restore_own
from ksm_operator.kernel.marks import own_ranges
from ksm_operator.kernel.mergeable import marks_everything, merges_everything
from ksm_operator.kernel.procfs import PROC, Process
from ksm_operator.kernel.ranges import without
from ksm_operator.kernel.smaps import read_merged_bytes, read_vmas
from ksm_operator.kernel.steps import run
from ksm_operator.kernel.unmerge import CHUNK_BYTES, Unmerging

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from ksm_operator.kernel.chunks import Chunk
    from ksm_operator.kernel.marks import Marks
    from ksm_operator.kernel.tracer import RemoteCalls

ROUNDS: Final = 8
"""Looks at the process in one call: ksmd may merge behind us until merging is off."""


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
            Unmerging(
                process,
                tracer,
                headroom,
                marks,
                keeps_flags=keeps_flags,
                chunk_bytes=chunk_bytes,
                proc=proc,
            )
        )
    )


def release_steps(act: Unmerging) -> Generator[tuple[Chunk, ...], None, ReleaseProgress]:
    """The same as `release`, step by step: its caller may do other things in between, or end it."""
    try:
        reason = yield from _by_ranges(act) if act.by_ranges else _as_a_whole(act)
    except Postponed as error:
        reason = error.reason
    # What is merged in ranges that the program marked itself is its own affair.
    remaining = 0 if reason is None else read_merged_bytes(act.process, proc=act.proc)
    return ReleaseProgress(reason is None, remaining, reason, act.freed_bytes)


def give_back_steps(
    act: Unmerging, wanted: Callable[[Chunk], bool]
) -> Generator[tuple[Chunk, ...], None, None]:
    """Give a process its own pages back in the ranges that are wanted, step by step.

    Those stay unmergeable; merging stays on for all others, and for memory that is mapped later.
    Ends early where there is no room or the process cannot make calls now.

    Args:
        act: whose.
        wanted: asked of each range before it is given back.

    Yields:
        What was given back in one visit; nothing for a range that was not wanted.

    Raises:
        ProcessGone, RemoteCallFailed: see `release`.
    """
    with contextlib.suppress(Postponed):
        yield from act.give_back(wanted)


def _by_ranges(act: Unmerging) -> Generator[tuple[Chunk, ...], None, str | None]:
    """Returns why it is not done; None when it is."""
    for _ in range(ROUNDS):
        vmas = read_vmas(act.process, proc=act.proc)
        if not parts_of(vmas, act.ours):
            return None
        if not parts_of(vmas, act.ours, keeps_flags=act.keeps_flags):
            return "FlagsWouldBeLost"
        if not (yield from act.give_back()):
            return "NoHeadroom"
    return "StillMergeable"


def _as_a_whole(act: Unmerging) -> Generator[tuple[Chunk, ...], None, str | None]:
    """Returns why it is not done; None when it is."""
    # Off already: what is still marked was marked by the program itself.
    if merges_everything(act.process, proc=act.proc):
        for _ in range(ROUNDS):
            if not (yield from act.give_back()) or not act.switch_off():
                return "NoHeadroom"
            yield ()
            if _is_off(act):
                break
        else:
            return "StillMergeable"
    if act.own:
        restore_own(act.process, act.tracer, act.own, proc=act.proc)
    return None


def _is_off(act: Unmerging) -> bool:
    """What the process's ranges say counts: the flag alone does not tell of madvise."""
    stat = read_ksm_stat(act.process, proc=act.proc)
    if stat.merge_any:
        return False
    if stat.merge_any is False and stat.mergeable is False:
        return True
    vmas = read_vmas(act.process, proc=act.proc)
    if marks_everything(vmas) or without(own_ranges(vmas), act.own):
        return False
    return bool(act.own) or not read_merged_bytes(act.process, proc=act.proc)
