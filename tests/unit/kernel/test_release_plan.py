"""The order of a release, tried on a model of memory cgroups that counts every single page."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.kernel import Process
from ksm_operator.kernel.release_plan import (
    LeftOver,
    Member,
    Pages,
    Part,
    ReleasePlan,
    Step,
    plan_release,
)

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


def plan(
    members: Sequence[Member], pages: Sequence[Pages], rooms: Mapping[str, int], margin: int = 0
) -> ReleasePlan:
    """Plan with pages of one byte."""
    return plan_release(members, pages, rooms, page_size=1, margin_bytes=margin)


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
        self.used = dict.fromkeys((*LEVELS, *PAYERS), 0)
        self.mapped = [list(mappers) for _, mappers, _ in self.pages]

    def planned(self) -> ReleasePlan:
        """Ask the planner."""
        members = [Member(process, CONTAINERS[name]) for process, name in self.cgroup_of.items()]
        pages = [
            Pages(
                PAYERS[payer],
                tuple((process, mappers.count(process)) for process in sorted(set(mappers))),
                others > 0,
                1,
            )
            for payer, mappers, others in self.pages
        ]
        return plan(members, pages, self.rooms)

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
            payer, _, others = self.pages[index]
            self.charge(path, 1)  # the copy first
            self.mapped[index].remove(process)
            if not self.mapped[index] and not others:
                self.charge(PAYERS[payer], -1)

    def fits(self, order: tuple[Process, ...]) -> bool:
        """Whether whole processes can go in this order, whatever the order of their pages."""
        self.__post_init__()
        self.used = dict.fromkeys(self.used, 1)  # the copy that is there before its original goes
        try:
            for process in order:
                self.unmerge(process, None, random.Random(0))
        except TooMuch:
            return False
        return True


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


@given(models(), st.randoms(use_true_random=False))
def test_no_step_exceeds_a_room(model: Model, shuffle: random.Random) -> None:
    """In whatever order the pages of a step go: this is what keeps a pod from being killed."""
    for step in model.planned().steps:
        model.unmerge(step.process, step.part, shuffle)


@given(models())
def test_nobody_is_lost(model: Model) -> None:
    """Each process ends with its last step or among those left, and those lack something."""
    found = model.planned()
    released = [step.process for step in found.steps if step.part is Part.REST]
    left = [one.process for one in found.left]
    assert sorted(released + left) == sorted(model.cgroup_of)
    assert len({(step.process, step.part) for step in found.steps}) == len(found.steps)
    for one in found.left:
        assert one.lacking_bytes > 0
        assert one.level in CONTAINERS[model.cgroup_of[one.process]]
        assert one.level in model.rooms


@given(models())
def test_it_finds_what_fits_in_any_order_of_processes(model: Model) -> None:
    """No order of whole processes does better than the plan."""
    if any(model.fits(order) for order in permutations(model.cgroup_of)):
        assert model.planned().left == ()


@given(models(), st.randoms(use_true_random=False))
def test_same_plan_whatever_the_order_of_what_it_is_told(
    model: Model, shuffle: random.Random
) -> None:
    """Two looks at the same node plan the same."""
    found = model.planned()
    members = list(model.cgroup_of.items())
    shuffle.shuffle(members)
    shuffle.shuffle(model.pages)
    assert Model(dict(members), model.rooms, model.pages).planned() == found


ONE, TWO = PROCESSES[:2]


def pages(payer: str, *mappers: Process, size: int = 48) -> Pages:
    """So many pages."""
    return Pages(PAYERS[payer], tuple((process, 1) for process in mappers), False, size)


def test_the_sharer_goes_first() -> None:
    """The payer has room for nothing and needs none when it is the last."""
    members = [Member(ONE, CONTAINERS["/p2/c"]), Member(TWO, CONTAINERS["/p3/d"])]
    found = plan(members, [pages("/p2/c", ONE, TWO)], {"/p2/c": 14, "/p3/d": 64})
    assert found.steps == (
        Step(TWO, Part.UNPAID, 48),
        Step(TWO, Part.REST, 0),
        Step(ONE, Part.REST, 0),
    )
    assert not found.left


def test_each_pays_for_the_other() -> None:
    """Neither has room for everything, but both for what the other pays for."""
    members = [Member(ONE, CONTAINERS["/p2/c"]), Member(TWO, CONTAINERS["/p3/d"])]
    both = [pages("/p2/c", ONE, TWO), pages("/p3/d", ONE, TWO)]
    found = plan(members, both, {"/p2/c": 60, "/p3/d": 60})
    assert [step.part for step in found.steps] == [Part.UNPAID] * 2 + [Part.REST] * 2
    assert not found.left


def test_what_does_not_fit_names_the_cgroup_that_lacks_most() -> None:
    """A person reads it: which limit, and by how much."""
    found = plan(
        [Member(ONE, CONTAINERS["/p2/c"], unshared_bytes=10)],
        [pages("/gone", ONE)],
        {"/p2/c": 40, "/p2": 30, "node": 50},
    )
    assert found.left == (LeftOver(ONE, "/p2", 28),)
    assert not found.steps


def test_a_step_leaves_a_margin() -> None:
    """A program goes on allocating meanwhile; one that only swaps pages needs none."""
    members = [Member(ONE, CONTAINERS["/p2/c"])]
    foreign, own = [pages("/gone", ONE)], [pages("/p2/c", ONE)]
    assert plan(members, foreign, {"/p2/c": 51}, margin=4).left == (LeftOver(ONE, "/p2/c", 1),)
    assert not plan(members, foreign, {"/p2/c": 52}, margin=4).left
    assert not plan(members, own, {"/p2/c": 1}, margin=4).left


def test_many_processes() -> None:
    """A node full of pods with the same memory is planned in a moment."""
    processes = [Process(pid, 1) for pid in range(1, 401)]
    path = {one: (f"/c{one.pid}", "/", "node") for one in processes}
    shared = [
        Pages(path[processes[index]], tuple((one, 1) for one in processes), False, 1)
        for index in range(40)
    ]
    rooms = {f"/c{one.pid}": 40 for one in processes}
    found = plan([Member(one, path[one]) for one in processes], shared, rooms)
    assert not found.left
    last = {step.process for step in found.steps[-40:]}
    assert last == set(processes[:40])
