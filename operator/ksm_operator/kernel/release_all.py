"""Releasing many processes: find out who pays, plan, and give back, sharers before payers.

The plan is made from a sample of about this moment; what keeps a cgroup from being pushed over its
limit is that every chunk asks for the room again. Where the kernel does not tell who pays, the
processes go one after the other as they are.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.errors import KernelError
from ksm_operator.kernel.headroom import NODE, Level, path_up, tightest
from ksm_operator.kernel.payers import ChunkPayers, cgroup_names, survey_steps
from ksm_operator.kernel.procfs import PROC, Process, page_size, read_ksm_stat
from ksm_operator.kernel.release import (
    MARGIN_BYTES,
    ReleaseProgress,
    give_back_steps,
    release_steps,
)
from ksm_operator.kernel.release_plan import (
    LeftOver,
    Member,
    Pages,
    Part,
    ReleasePlan,
    Step,
    plan_release,
)
from ksm_operator.kernel.smaps import read_merged_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence
    from pathlib import Path

    from ksm_operator.kernel.headroom import Rooms
    from ksm_operator.kernel.marks import Marks
    from ksm_operator.kernel.payers import Survey
    from ksm_operator.kernel.tracer import RemoteCalls

    Outcome = ReleaseProgress | KernelError

ROUNDS: Final = 8
"""Plans made in one call: processes fork, exec, and end while others are released."""

TIGHT_PAUSE_SECONDS: Final = 0.02
"""Left to the kernel to reclaim after a chunk that reached a limit."""

NO_ROOM: Final = -1


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


def shared_pages(survey: Survey, paths: dict[int, tuple[str, ...]]) -> list[Pages]:
    """What the planner needs to know of a survey.

    Args:
        survey: of the processes that are to be released.
        paths: of each cgroup by inode, the names of it and of all above it, then the node's.
    """
    return [
        Pages(
            payer=paths.get(each.payer, (NODE,)),
            mappers=each.mappers,
            is_shared_elsewhere=each.elsewhere > 0,
            size=each.pages * survey.every * survey.page_size,
        )
        for each in survey.shared
    ]


class _Turn:
    """One process while it is given its pages: its room, and what happens to its cgroups."""

    def __init__(self, process: Process, rooms: Rooms, proc: Path) -> None:
        self._process = process
        self._rooms = rooms
        self._proc = proc
        self._events = rooms.events(self.directory())
        self._is_short = False

    def directory(self) -> Path:
        return self._rooms.hierarchy.directory(self._process.pid, proc=self._proc)

    def level(self) -> Level | None:
        return tightest(self._rooms.levels(self.directory()))

    def room(self) -> int | None:
        """Asked before every chunk; an OOM since the turn began ends it."""
        if self._is_short:
            return NO_ROOM
        level = self.level()
        return None if level is None else level.room

    def pause(self) -> float:
        """Seconds that the kernel should have after this chunk."""
        before, self._events = self._events, self._rooms.events(self.directory())
        self._is_short |= self._events.is_short_since(before)
        return TIGHT_PAUSE_SECONDS if self._events.is_tight_since(before) else 0.0

    def explained(self, progress: ReleaseProgress) -> ReleaseProgress:
        """With the name of the level that lacks, if that is why it ended."""
        level = self.level()
        if progress.reason != "NoHeadroom" or level is None or level.room is None:
            return progress
        need = progress.remaining_bytes
        lacking = max(0, need + min(need, MARGIN_BYTES) - level.room)
        return replace(progress, level=level.name, lacking_bytes=lacking)


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
        survey: Survey | None = None
        try:
            steps = survey_steps(processes, proc=self._proc)
            while survey is None:
                try:
                    next(steps)
                except StopIteration as end:
                    survey = end.value
                yield 0.0
            paths = self._paths()
        except KernelError:
            return as_they_are(processes)
        members = []
        rooms: dict[Path, list[Level]] = {}
        for process in processes:
            try:
                directory = self._rooms.hierarchy.directory(process.pid, proc=self._proc)
                if directory not in rooms:
                    rooms[directory] = self._rooms.levels(directory)
                levels = rooms[directory]
                zeroes = (read_ksm_stat(process, proc=self._proc).zero_pages or 0) * page_size()
            except KernelError:
                levels, zeroes = [Level(NODE, None)], 0  # its turn tells why
            members.append(Member(process, tuple(level.name for level in levels), zeroes))
            yield 0.0
        found = {level.name: level.room for levels in rooms.values() for level in levels}
        pages = shared_pages(survey, paths)
        return plan_release(members, pages, found, page_size=page_size(), margin_bytes=MARGIN_BYTES)

    def _paths(self) -> dict[int, tuple[str, ...]]:
        hierarchy = self._rooms.hierarchy
        paths = {}
        for inode, name in cgroup_names(hierarchy).items():
            up = path_up(hierarchy, hierarchy.path(name))
            paths[inode] = (*(hierarchy.name(level) for level in up), NODE)
        return paths

    def take(self, step: Step) -> Generator[float, None, Outcome | None]:
        """Do one step; returns what became of the process, None if it has another step."""
        try:
            turn = _Turn(step.process, self._rooms, self._proc)
            if step.part is Part.REST:
                return (yield from self._release(step.process, turn))
            yield from self._give_back_unpaid(step.process, turn)
        except KernelError as error:
            if step.part is Part.REST:
                return error
        return None

    def _give_back_unpaid(self, process: Process, turn: _Turn) -> Generator[float, None, None]:
        before = read_merged_bytes(process, proc=self._proc)
        inodes = _inodes(path_up(self._rooms.hierarchy, turn.directory()))
        payers = ChunkPayers(process, inodes, proc=self._proc)
        try:
            for _ in give_back_steps(
                process,
                self._tracer,
                turn.room,
                lambda chunk: payers.is_unpaid(chunk.start, chunk.length),
                self._marks_of(process),
                keeps_flags=self._keeps_flags,
                proc=self._proc,
            ):
                yield turn.pause()
        finally:
            payers.close()
        self._freed[process] += max(0, before - read_merged_bytes(process, proc=self._proc))

    def _release(self, process: Process, turn: _Turn) -> Generator[float, None, ReleaseProgress]:
        steps = release_steps(
            process,
            self._tracer,
            turn.room,
            self._marks_of(process),
            keeps_flags=self._keeps_flags,
            proc=self._proc,
        )
        while True:
            try:
                next(steps)
            except StopIteration as end:
                progress: ReleaseProgress = end.value
                break
            yield turn.pause()
        progress = replace(progress, freed_bytes=progress.freed_bytes + self._freed[process])
        return turn.explained(progress)

    def left_over(self, one: LeftOver) -> Outcome:
        """What is to be told of a process that was left."""
        try:
            remaining = read_merged_bytes(one.process, proc=self._proc)
        except KernelError as error:
            return error
        freed = self._freed[one.process]
        return ReleaseProgress(False, remaining, "NoHeadroom", freed, one.level, one.lacking_bytes)


def _inodes(directories: Iterable[Path]) -> set[int]:
    found = set()
    for directory in directories:
        with contextlib.suppress(OSError):
            found.add(directory.stat().st_ino)
    return found
