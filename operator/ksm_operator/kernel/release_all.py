"""Releasing many processes: find out who pays, plan, and give back, sharers before payers.

The plan is made from a sample of about this moment; what keeps a cgroup from being pushed over its
limit is that every chunk asks for the room again. Where the kernel does not tell who pays, the
processes go one after the other as they are.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.errors import KernelError, Postponed
from ksm_operator.kernel.payers import ChunkPayers, inodes_above
from ksm_operator.kernel.procfs import PROC, Process, page_size
from ksm_operator.kernel.release import ReleaseProgress, give_back_steps, release_steps
from ksm_operator.kernel.release_plan import (
    LeftOver,
    Part,
    ReleasePlan,
    Step,
    plan_release,
)
from ksm_operator.kernel.scene import look_steps
from ksm_operator.kernel.smaps import read_merged_bytes
from ksm_operator.kernel.turns import Turn
from ksm_operator.kernel.unmerge import MARGIN_BYTES, Unmerging

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence
    from pathlib import Path

    from ksm_operator.kernel.chunks import Chunk
    from ksm_operator.kernel.headroom import Rooms
    from ksm_operator.kernel.marks import Marks
    from ksm_operator.kernel.tracer import RemoteCalls

    Outcome = ReleaseProgress | KernelError

ROUNDS: Final = 8
"""Plans made in one call: processes fork, exec, and end while others are released."""


def release_all(
    members: Callable[[], Iterable[Process]],
    tracer: RemoteCalls,
    rooms: Rooms,
    told: Callable[[Process, Outcome], None],
    *,
    marks_of: Callable[[Process], Marks | None] = lambda _: None,
    keeps_flags: bool = False,
    proc: Path = PROC,
) -> Generator[float, None, None]:
    """Give processes their own pages back, and make them as mergeable as they were before us.

    Sharers go before payers. What does not fit stays merged as a whole; call again when there is
    more room.

    Args:
        members: asked in each round for all that must be released; children that were forked
            meanwhile are found that way.
        tracer: makes the processes run the calls.
        rooms: asked before every chunk for what the process's cgroups and the node can take.
        told: called once for each process, with how far its release came, or with why it failed
            (`ProcessGone` if it exited).
        marks_of: what is on record of a process; see `release`.
        keeps_flags: see `release`.
        proc: the proc file system.

    Yields:
        After every chunk, the seconds to wait before going on: 0 unless a limit was reached. It
        may be closed at any time: what was given back stays so.
    """
    act = _Act(tracer, rooms, marks_of, keeps_flags=keeps_flags, proc=proc)
    settled: set[Process] = set()
    left: dict[Process, Outcome] = {}
    for _ in range(ROUNDS):
        pending = sorted(set(members()) - settled)
        if not pending:
            break
        plan = yield from act.plan(pending)
        for step in plan.steps:
            outcome = yield from act.take(step)
            yield 0.0
            if outcome is not None:
                settled.add(step.process)
                left.pop(step.process, None)
                told(step.process, outcome)
        left |= {one.process: act.left_over(one) for one in plan.left}
        if not any(step.part is Part.REST for step in plan.steps):
            break
    for process, outcome in left.items():
        told(process, outcome)


def as_they_are(processes: Iterable[Process]) -> ReleasePlan:
    """The plan where nothing is known of who pays."""
    return ReleasePlan(tuple(Step(process, Part.REST, 0) for process in processes), ())


class _Act:
    """One call of `release_all`."""

    def __init__(
        self,
        tracer: RemoteCalls,
        rooms: Rooms,
        marks_of: Callable[[Process], Marks | None],
        *,
        keeps_flags: bool,
        proc: Path,
    ) -> None:
        self._tracer = tracer
        self._rooms = rooms
        self._marks_of = marks_of
        self._keeps_flags = keeps_flags
        self._proc = proc
        self._freed: Counter[Process] = Counter()

    def plan(self, processes: Sequence[Process]) -> Generator[float, None, ReleasePlan]:
        """In which order to release these."""
        try:
            scene = yield from look_steps(processes, self._rooms, proc=self._proc)
        except KernelError:
            return as_they_are(processes)
        return plan_release(
            scene.members,
            scene.pages,
            scene.rooms,
            page_size=page_size(),
            margin_bytes=MARGIN_BYTES,
        )

    def take(self, step: Step) -> Generator[float, None, Outcome | None]:
        """Do one step; returns what became of the process, None if it has another step."""
        try:
            turn = Turn(step.process, self._rooms, self._proc)
            if step.part is Part.REST:
                return (yield from self._release(step.process, turn))
            yield from self._give_back_unpaid(step.process, turn)
        except Postponed as error:
            if step.part is Part.REST:
                return ReleaseProgress(False, 0, error.reason)
        except KernelError as error:
            if step.part is Part.REST:
                return error
        return None

    def _give_back_unpaid(self, process: Process, turn: Turn) -> Generator[float, None, None]:
        inodes = inodes_above(self._rooms.hierarchy, turn.directory())
        act = self._unmerging(process, turn)
        payers = ChunkPayers(process, proc=self._proc)

        def wanted(chunk: Chunk) -> bool:
            return payers.is_unpaid(chunk.start, chunk.length, inodes)

        with closing(payers), closing(give_back_steps(act, wanted)) as steps:
            for given_back in steps:
                yield turn.pause() if given_back else 0.0
        self._freed[process] += act.freed_bytes

    def _release(self, process: Process, turn: Turn) -> Generator[float, None, ReleaseProgress]:
        steps = release_steps(self._unmerging(process, turn))
        while True:
            try:
                next(steps)
            except StopIteration as end:
                progress: ReleaseProgress = end.value
                break
            yield turn.pause()
        progress = replace(progress, freed_bytes=progress.freed_bytes + self._freed[process])
        return turn.explained(progress)

    def _unmerging(self, process: Process, turn: Turn) -> Unmerging:
        return Unmerging(
            process,
            self._tracer,
            turn.room,
            self._marks_of(process),
            keeps_flags=self._keeps_flags,
            proc=self._proc,
        )

    def left_over(self, one: LeftOver) -> Outcome:
        """What is to be told of a process that was left."""
        try:
            remaining = read_merged_bytes(one.process, proc=self._proc)
        except Postponed as error:
            return ReleaseProgress(False, 0, error.reason)
        except KernelError as error:
            return error
        freed = self._freed[one.process]
        return ReleaseProgress(False, remaining, "NoHeadroom", freed, one.level, one.lacking_bytes)
