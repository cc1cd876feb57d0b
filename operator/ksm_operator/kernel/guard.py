"""Breaking sharing, so that a cgroup that pays for others has room for all that it had merged.

What to break is planned by `guard_plan` from one look at the node. Here the others that map the
pages give them back, range by range, each time asked whether they have room. Then it is looked
again: a range holds pages of several payers, and processes go on meanwhile.

A range that was given back stays unmergeable, though merging stays on for the process: ksmd would
otherwise merge it again at once. So the process keeps a part of its memory to itself until it is
released and enrolled anew. Nothing has to be remembered for that: switching merging off clears
every range, and what the program had marked itself is on record since it was enrolled (`Intent`).
One that is enrolled by ranges gives back of these only. They stay on its record, and what is on
record and not marked is not marked again (`madvise.choose`).
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.errors import KernelError
from ksm_operator.kernel.guard_plan import (
    Break,
    Exposed,
    GuardPlan,
    demand_errors,
    demands,
    plan_guard,
)
from ksm_operator.kernel.headroom import with_margin
from ksm_operator.kernel.maps import read_maps
from ksm_operator.kernel.payers import ChunkPayers
from ksm_operator.kernel.procfs import PROC, Process, page_size
from ksm_operator.kernel.ranges import Range, common, joined
from ksm_operator.kernel.release import give_back_steps
from ksm_operator.kernel.scene import Scene, look_steps
from ksm_operator.kernel.turns import Turn
from ksm_operator.kernel.unmerge import MARGIN_BYTES, Unmerging

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
    from pathlib import Path

    from ksm_operator.kernel.chunks import Chunk
    from ksm_operator.kernel.headroom import Level, Rooms
    from ksm_operator.kernel.marks import Marks
    from ksm_operator.kernel.tracer import RemoteCalls

ROUNDS: Final = 32
"""Looks in one call."""

MOST_BYTES: Final = 256 << 20
"""Pages given back by the same processes between two looks: they are remembered meanwhile."""

MOSTLY: Final = 0.5
"""Share of the merged pages of a range that must be meant, in the first round.

Later a single one suffices: what is scattered goes last, for it takes the most with it.
"""


@dataclass(frozen=True, slots=True)
class Relief:
    """What was done.

    Attributes:
        ranges: of each process, what it gave back and keeps to itself from now on.
        given_back: of each process, merged memory that became its own, in bytes.
        exposed: cgroups that have not got room enough for what they may need.
        spare: of each level with a limit, the room beyond what its processes may come to need, by
            the last look: with the margin and a sample's error; negative where it lacks.
        levels: all that were looked at, as they were read for that.
    """

    ranges: Mapping[Process, tuple[Range, ...]]
    given_back: Mapping[Process, int]
    exposed: tuple[Exposed, ...]
    spare: Mapping[str, int]
    levels: Mapping[str, Level]


def relieve(
    members: Callable[[], Iterable[Process]],
    breakable: Callable[[Process], bool],
    tracer: RemoteCalls,
    rooms: Rooms,
    *,
    marks_of: Callable[[Process], Marks | None] = lambda _: None,
    guarded: Collection[str] | None = None,
    keeps_flags: bool = False,
    proc: Path = PROC,
) -> Generator[float, None, Relief]:
    """Break as much sharing as it takes for every cgroup to have room for all it had merged.

    Args:
        members: asked in each round for all mergeable processes of the node: who is left out may
            share pages that nobody can be made to give back.
        breakable: who may be made to give pages back: processes that merge because of us, so that
            a release brings them back to what they were. Asked again before each chunk: somebody
            may have been released since it was planned.
        tracer: makes the processes run the calls.
        rooms: asked before every chunk for what the process's cgroups and the node can take.
        marks_of: what is on record of a process; needed of those that were enrolled by ranges.
        guarded: names of the levels to look after; None for all.
        keeps_flags: see `release`.
        proc: the proc file system.

    Yields:
        After every step, the seconds to wait before going on: 0 unless a limit was reached. It may
        be closed at any time: what was given back stays so.

    Raises:
        KernelError, Unsupported: the kernel does not tell who pays, see `survey_payers`.
    """
    act = _Act(breakable, marks_of, tracer, rooms, keeps_flags=keeps_flags, proc=proc)
    for number in range(ROUNDS):
        scene = yield from look_steps(members(), rooms, proc=proc)
        plan = _plan(scene, guarded, breakable)
        before = act.given_back.total()
        for one in plan.breaks:
            yield from act.carry_out(one, scene.inodes[one.payer], 0.0 if number else MOSTLY)
        if act.given_back.total() == before and (number or not plan.breaks):
            break
    if plan.breaks:
        # Planned, but not done: nothing of it is to be counted on.
        plan = _plan(scene, guarded, lambda _: False)
    ranges = {process: joined(found) for process, found in act.ranges.items()}
    return Relief(ranges, act.given_back, plan.exposed, _spare(scene), scene.levels)


def _plan(
    scene: Scene, guarded: Collection[str] | None, breakable: Callable[[Process], bool]
) -> GuardPlan:
    mappers = {process for each in scene.pages for process, _ in each.mappers}
    return plan_guard(
        scene.members,
        scene.pages,
        scene.rooms,
        breakable=set(filter(breakable, mappers)),
        guarded=guarded,
        errors=_errors(scene),
        page_size=page_size(),
        margin_bytes=MARGIN_BYTES,
    )


def _errors(scene: Scene) -> dict[str, int]:
    every = scene.survey.every
    return demand_errors(scene.members, scene.pages, every=every, page_size=page_size())


def _spare(scene: Scene) -> dict[str, int]:
    needs, errors = demands(scene.members, scene.pages), _errors(scene)
    return {
        name: room - with_margin(needs[name] + errors.get(name, 0), MARGIN_BYTES)
        for name, room in scene.rooms.items()
        if room is not None
    }


class _Choice:
    """Which ranges of one process are to be given back.

    Attributes:
        broken: frames of the pages that were meant and have been given back.
    """

    def __init__(
        self, is_meant: Callable[[int, int], bool], share: float, most_bytes: int | None
    ) -> None:
        """Choose.

        Args:
            is_meant: tells it of a merged page, by its frame and its payer.
            share: least share of the merged pages of a range that must be meant.
            most_bytes: of pages that are meant, where it ends; None for all of them.
        """
        self.broken: set[int] = set()
        self._is_meant = is_meant
        self._share = share
        self._most_bytes = most_bytes

    @property
    def is_full(self) -> bool:
        """Enough has been given back."""
        return self._most_bytes is not None and len(self.broken) * page_size() >= self._most_bytes

    def meant(self, merged: Sequence[tuple[int, int]]) -> set[int]:
        """The frames for which a range with these merged pages is to be given back; none if not."""
        found = {frame for frame, payer in merged if self._is_meant(frame, payer)}
        return found if len(found) >= self._share * len(merged) else set()


class _Act:
    """One call of `relieve`."""

    def __init__(
        self,
        breakable: Callable[[Process], bool],
        marks_of: Callable[[Process], Marks | None],
        tracer: RemoteCalls,
        rooms: Rooms,
        *,
        keeps_flags: bool,
        proc: Path,
    ) -> None:
        self._breakable = breakable
        self._marks_of = marks_of
        self._tracer = tracer
        self._keeps_flags = keeps_flags
        self._rooms = rooms
        self._proc = proc
        self.ranges: dict[Process, list[Range]] = {}
        self.given_back: Counter[Process] = Counter()

    def carry_out(self, one: Break, payer: int, share: float) -> Generator[float, None, None]:
        """Let all sharers give back the same pages."""
        first, *others = (process for process, _ in one.sharers)
        if not all(map(self._breakable, (first, *others))):
            return  # somebody was released since it was planned
        try:
            # The first one chooses the pages, by where they lie in its memory.
            chosen = _Choice(lambda _, charged: charged == payer, share, min(one.size, MOST_BYTES))
            yield from self._give_back(first, chosen)
            for process in others:
                same = _Choice(lambda frame, _: frame in chosen.broken, share, None)
                yield from self._give_back(process, same)
        except KernelError:
            return  # the next look tells what is left

    def _give_back(self, process: Process, choice: _Choice) -> Generator[float, None, None]:
        turn = Turn(process, self._rooms, self._proc)
        # Before 6.14 its stack alone shows that a process merges everything: it stays marked.
        stacks = [
            Range(one.start, one.end)
            for one in read_maps(process, proc=self._proc).ranges
            if one.name == b"[stack]"
        ]
        act = Unmerging(
            process,
            self._tracer,
            turn.room,
            self._marks_of(process),
            keeps_flags=self._keeps_flags,
            proc=self._proc,
        )
        payers = ChunkPayers(process, proc=self._proc)
        looked_at: dict[Range, list[tuple[int, int]]] = {}

        def wanted(chunk: Chunk) -> bool:
            if choice.is_full or common([chunk.where], stacks) or not self._breakable(process):
                return False
            pages = looked_at[chunk.where] = payers.merged(chunk.start, chunk.length)
            return bool(choice.meant(pages))

        with contextlib.closing(payers), contextlib.closing(give_back_steps(act, wanted)) as steps:
            for chunks in steps:
                for chunk in chunks:
                    pages = looked_at[chunk.where]
                    choice.broken |= choice.meant(pages)
                    self.ranges.setdefault(process, []).append(chunk.where)
                    self.given_back[process] += len(pages) * page_size()
                yield turn.pause() if chunks else 0.0
                if choice.is_full:
                    break
