"""In which order to release processes, so that no cgroup is pushed over its limit on the way.

Releasing a process gives it a page of its own for every merged one that it maps, charged to its
cgroup and to all above. The merged page itself is uncharged when the last mapping of it goes. So a
process whose cgroup pays for shared pages goes last: before that it would be charged for its own
pages and for the others' still; as the last one it only swaps one for the other. Processes share
in both directions, so each goes in two steps: first what others pay for, then what its own cgroup,
or one above it, pays for.

Pure: amounts in, order out. A step that the plan emits fits, at every moment of it, into every room
that was given; `release_all` looks at the rooms again before every chunk nevertheless.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ksm_operator.kernel.procfs import Process


class Part(IntEnum):
    """What of a process a step gives back; the order is that of a release."""

    UNPAID = 0
    """Merged pages that a cgroup outside of its own path pays for."""
    REST = 1
    """All others, and merging is off afterwards."""


@dataclass(frozen=True, slots=True)
class Member:
    """A process that is to be released.

    Attributes:
        process: who.
        path: names of the cgroup it lives in and of all above it, then of the node.
        unshared_bytes: what it needs beside its merged pages: pages of zeroes that were merged.
    """

    process: Process
    path: tuple[str, ...]
    unshared_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Pages:
    """Merged pages that are alike.

    Attributes:
        payer: names of the cgroup that is charged for them and of all above it, then of the node;
            of those that are unknown nothing is hoped for.
        mappers: who maps each of them, and how many times.
        is_shared_elsewhere: somebody who is not to be released maps them too.
        size: bytes of all of them together.
    """

    payer: tuple[str, ...]
    mappers: tuple[tuple[Process, int], ...]
    is_shared_elsewhere: bool
    size: int


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do.

    Attributes:
        process: who is released.
        part: which of its pages.
        charged_bytes: most that its cgroup's usage grows by this step.
    """

    process: Process
    part: Part
    charged_bytes: int


@dataclass(frozen=True, slots=True)
class LeftOver:
    """A process of which some part does not fit.

    Attributes:
        process: who.
        level: name of the cgroup that lacks most, or of the node.
        lacking_bytes: how much more room it would need.
    """

    process: Process
    level: str
    lacking_bytes: int


@dataclass(frozen=True, slots=True)
class ReleasePlan:
    """What to do, and what to leave.

    Attributes:
        steps: in this order.
        left: everybody whose last step is not among them.
    """

    steps: tuple[Step, ...]
    left: tuple[LeftOver, ...]


def plan_release(
    members: Iterable[Member],
    pages: Iterable[Pages],
    rooms: Mapping[str, int | None],
    *,
    page_size: int,
    margin_bytes: int,
) -> ReleasePlan:
    """Order the releases of these processes.

    Args:
        members: who is to be released; each once.
        pages: their merged pages.
        rooms: bytes that each cgroup, and the node, can still take; None, or not there, is no
            limit.
        page_size: a copy is charged before the page it replaces is given up, so one page more
            than what a step ends with has to fit.
        margin_bytes: most room that a step leaves untouched; one that adds less leaves as much.
    """
    planner = _Planner(
        {member.process: member for member in members}, list(pages), rooms, page_size, margin_bytes
    )
    steps: list[Step] = []
    pending = set(planner.parts())
    while pending:
        taken: set[tuple[Process, Part]] = set()
        may_regret = True
        for process, part in sorted(pending, key=planner.rank):
            # What would cost less later waits, unless nothing else can be done.
            regret = planner.regret(process, part)
            if regret and not may_regret:
                continue
            first = (process, Part.UNPAID)
            if part is Part.REST and first in pending and first not in taken:
                continue
            if planner.lack(process, part) is None:
                steps.append(Step(process, part, planner.take(process, part)))
                taken.add((process, part))
                may_regret &= regret > 0
        if not taken:
            break
        pending -= taken
    left: dict[Process, LeftOver] = {}
    for process, part in sorted(pending):
        lack = planner.lack(process, part)
        if lack is not None:
            left.setdefault(process, LeftOver(process, *lack))
    return ReleasePlan(tuple(steps), tuple(left.values()))


class _Planner:
    """The state of a model of the cgroups while steps are taken in it."""

    def __init__(
        self,
        members: dict[Process, Member],
        pages: Sequence[Pages],
        rooms: Mapping[str, int | None],
        page_size: int,
        margin_bytes: int,
    ) -> None:
        self.members = members
        self._rooms = {name: room for name, room in rooms.items() if room is not None}
        self._pages = pages
        self._page_size = page_size
        self._margin_bytes = margin_bytes
        # Of each kind of pages, how many of its mappers are still to be released, and how many of
        # those live where others pay.
        self._mappers = [len(each.mappers) for each in pages]
        self._guests = [0] * len(pages)
        self._of: dict[tuple[Process, Part], list[int]] = {}
        self._charged = {
            (process, Part.REST): member.unshared_bytes for process, member in members.items()
        }
        paths = {process: frozenset(member.path) for process, member in members.items()}
        for index, each in enumerate(pages):
            for process, times in each.mappers:
                key = (process, Part(each.payer[0] in paths[process]))
                self._of.setdefault(key, []).append(index)
                self._charged[key] = self._charged.get(key, 0) + times * each.size
                self._guests[index] += key[1] is Part.UNPAID

    def parts(self) -> Iterator[tuple[Process, Part]]:
        for process in self.members:
            if (process, Part.UNPAID) in self._of:
                yield process, Part.UNPAID
            yield process, Part.REST

    def rank(self, step: tuple[Process, Part]) -> tuple[int, int, int, Process]:
        process, part = step
        return self.regret(process, part), part, self._charged[step], process

    def regret(self, process: Process, part: Part) -> int:
        """Bytes that the step would save if it waited for others."""
        if part is Part.UNPAID:
            return 0
        mine = self._of.get((process, part), ())
        return sum(self._pages[index].size for index in mine if self._guests[index])

    def _deltas(self, process: Process, part: Part) -> dict[str, int]:
        """How much each level's usage changes by the step."""
        charged = self._charged[process, part]
        deltas = dict.fromkeys(self.members[process].path, charged)
        for index in self._of.get((process, part), ()):
            pages = self._pages[index]
            if self._mappers[index] == 1 and not pages.is_shared_elsewhere:
                for name in pages.payer:
                    deltas[name] = deltas.get(name, 0) - pages.size
        return deltas

    def lack(self, process: Process, part: Part) -> tuple[str, int] | None:
        """The level that lacks most for a step, and how much; None if it fits."""
        charged = self._charged[process, part]
        if charged == 0:
            return None
        worst: tuple[str, int] | None = None
        deltas = self._deltas(process, part)
        for name in self.members[process].path:
            room = self._rooms.get(name)
            if room is None:
                continue
            added = max(0, deltas[name])
            most = min(charged, added + self._page_size)
            missing = most + min(added, self._margin_bytes) - room
            if missing > 0 and (worst is None or missing > worst[1]):
                worst = (name, missing)
        return worst

    def take(self, process: Process, part: Part) -> int:
        """Do the step in the model; returns the most that the process's own cgroup is charged."""
        deltas = self._deltas(process, part)
        for name, delta in deltas.items():
            if name in self._rooms:
                self._rooms[name] -= delta
        for index in self._of.get((process, part), ()):
            self._mappers[index] -= 1
            self._guests[index] -= part is Part.UNPAID
        return max(0, deltas[self.members[process].path[0]])
