"""The order of a release, tried on a model of memory cgroups."""

import random
from collections.abc import Mapping, Sequence
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
from unit.kernel.cgroup_model import CONTAINERS, PAYERS, PROCESSES, Model, TooMuch, models


def plan(
    members: Sequence[Member], pages: Sequence[Pages], rooms: Mapping[str, int], margin: int = 0
) -> ReleasePlan:
    """Plan with pages of one byte."""
    return plan_release(members, pages, rooms, page_size=1, margin_bytes=margin)


def planned(model: Model) -> ReleasePlan:
    """Ask the planner."""
    return plan(model.members(), model.shared(), model.rooms)


def fits(model: Model, order: tuple[Process, ...]) -> bool:
    """Whether whole processes can go in this order, whatever the order of their pages."""
    model.reset()
    model.used = dict.fromkeys(model.used, 1)  # the copy that is there before its original goes
    try:
        for process in order:
            model.unmerge(process, None, random.Random(0))
    except TooMuch:
        return False
    return True


@given(models(), st.randoms(use_true_random=False))
def test_no_step_exceeds_a_room(model: Model, shuffle: random.Random) -> None:
    """In whatever order the pages of a step go: this is what keeps a pod from being killed."""
    for step in planned(model).steps:
        model.unmerge(step.process, step.part, shuffle)


@given(models())
def test_nobody_is_lost(model: Model) -> None:
    """Each process ends with its last step or among those left, and those lack something."""
    found = planned(model)
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
    if any(fits(model, order) for order in permutations(model.cgroup_of)):
        assert planned(model).left == ()


@given(models(), st.randoms(use_true_random=False))
def test_same_plan_whatever_the_order_of_what_it_is_told(
    model: Model, shuffle: random.Random
) -> None:
    """Two looks at the same node plan the same."""
    found = planned(model)
    members = list(model.cgroup_of.items())
    shuffle.shuffle(members)
    shuffle.shuffle(model.pages)
    assert planned(Model(dict(members), model.rooms, model.pages)) == found


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
