"""A model of memory cgroups that counts every single page, for what plans in them."""

import random
from dataclasses import dataclass, field

from hypothesis import strategies as st

from ksm_operator.kernel import Process
from ksm_operator.kernel.release_plan import Member, Pages, Part

CONTAINERS = {
    "/p1/a": ("/p1/a", "/p1", "/", "node"),
    "/p1/b": ("/p1/b", "/p1", "/", "node"),
    "/p2/c": ("/p2/c", "/p2", "/", "node"),
    "/p3/d": ("/p3/d", "/p3", "/", "node"),
}
PAYERS = {
    **CONTAINERS,
    "/p1": ("/p1", "/", "node"),  # what a container of it that is gone has left
    "/gone": ("node",),
}
LEVELS = sorted({name for path in CONTAINERS.values() for name in path})


class TooMuch(Exception):  # noqa: N818 - what a kernel would kill for
    """A charge went over a limit."""


@dataclass
class Model:
    """Cgroups, and merged pages of one byte each: payer, mappers with repetition, others."""

    cgroup_of: dict[Process, str]
    rooms: dict[str, int]
    pages: list[tuple[str, list[Process], int]]
    used: dict[str, int] = field(default_factory=dict)
    mapped: list[list[Process]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """As before anything was given back."""
        self.used = dict.fromkeys((*LEVELS, *PAYERS), 0)
        self.mapped = [list(mappers) for _, mappers, _ in self.pages]

    def members(self) -> list[Member]:
        """What a planner is told of the processes."""
        return [Member(process, CONTAINERS[name]) for process, name in self.cgroup_of.items()]

    def shared(self) -> list[Pages]:
        """What a planner is told of the pages."""
        return [
            Pages(
                PAYERS[payer],
                tuple((process, mappers.count(process)) for process in sorted(set(mappers))),
                others > 0,
                1,
            )
            for payer, mappers, others in self.pages
        ]

    def charge(self, path: tuple[str, ...], amount: int) -> None:
        """Every level's usage changes; none may pass its limit."""
        for name in path:
            self.used[name] += amount
            if amount > 0 and name in self.rooms and self.used[name] > self.rooms[name]:
                raise TooMuch(name)

    def unmerge(self, process: Process, part: Part | None, shuffle: random.Random) -> None:
        """Give one process pages of its own, in any order; None is for all of its pages."""
        path = CONTAINERS[self.cgroup_of[process]]
        todo = [
            index
            for index, mappers in enumerate(self.mapped)
            for _ in range(mappers.count(process))
            if part is None or part is Part(PAYERS[self.pages[index][0]][0] in path)
        ]
        shuffle.shuffle(todo)
        for index in todo:
            self.copy(index, process)

    def copy(self, index: int, process: Process) -> None:
        """Give one process a page of its own for one mapping of a page."""
        payer, _, others = self.pages[index]
        self.charge(CONTAINERS[self.cgroup_of[process]], 1)  # the copy first
        self.mapped[index].remove(process)
        if not self.mapped[index] and not others:
            self.charge(PAYERS[payer], -1)


PROCESSES = [Process(pid, 1) for pid in range(1, 5)]


@st.composite
def models(draw: st.DrawFn) -> Model:
    """Four processes at most, in two pods and a third one of its own."""
    processes = PROCESSES[: draw(st.integers(1, 4))]
    names = st.sampled_from(sorted(CONTAINERS))
    page = st.tuples(
        st.sampled_from(sorted(PAYERS)),
        st.lists(st.sampled_from(processes), min_size=1, max_size=5),
        st.sampled_from([0, 0, 0, 1]),
    )
    return Model(
        {process: draw(names) for process in processes},
        draw(st.dictionaries(st.sampled_from(LEVELS), st.integers(-1, 12))),
        draw(st.lists(page, max_size=10)),
    )
