"""What the guard breaks, tried on a model of memory cgroups."""

import copy
import random
from collections import Counter

from hypothesis import example, given
from hypothesis import strategies as st

from ksm_operator.kernel import Process
from ksm_operator.kernel.guard_plan import (
    Break,
    Exposed,
    GuardPlan,
    demand_errors,
    demands,
    plan_guard,
)
from ksm_operator.kernel.release_plan import Member, Pages
from unit.kernel.cgroup_model import CONTAINERS, LEVELS, PAYERS, PROCESSES, Model, models

SHUFFLE = st.randoms(use_true_random=False)


def planned(model: Model, guarded: set[str] | None = None) -> GuardPlan:
    """Ask the planner, with pages of one byte and no margin."""
    return plan_guard(
        model.members(),
        model.shared(),
        model.rooms,
        breakable=model.cgroup_of,
        guarded=guarded,
        page_size=1,
        margin_bytes=0,
    )


def outside(model: Model, index: int, level: str) -> list[Process]:
    """Who maps a page and does not live in this cgroup or below, as often as it does."""
    return [one for one in model.mapped[index] if level not in CONTAINERS[model.cgroup_of[one]]]


def carry_out(model: Model, one: Break, shuffle: random.Random) -> None:
    """Break any pages of those that are meant, in any order."""
    sharers = Counter(dict(one.sharers))
    meant = [
        index
        for index, (payer, _, others) in enumerate(model.pages)
        if payer == one.payer
        and not others
        and Counter(outside(model, index, one.level)) == sharers
    ]
    for index in shuffle.sample(meant, one.size):
        leaving = outside(model, index, one.level)
        shuffle.shuffle(leaving)
        for process in leaving:
            model.copy(index, process)


def is_phantom(model: Model, index: int, level: str) -> bool:
    """Whether a cgroup was charged for a page at first that none of its processes had."""
    payer, mappers, _ = model.pages[index]
    inside = [one for one in mappers if level in CONTAINERS[model.cgroup_of[one]]]
    return level in PAYERS[payer] and not inside


def demand(model: Model, level: str) -> int:
    """What a level may come to need, counted page by page."""
    total = 0
    for index, (payer, _, others) in enumerate(model.pages):
        strangers = outside(model, index, level)
        inside = [one for one in model.mapped[index] if one not in strangers]
        total += len(inside) + is_phantom(model, index, level)
        if level in PAYERS[payer] and inside and not others and not strangers:
            total -= 1
    return total


def lacks(model: Model, level: str) -> bool:
    """Whether what a level may come to need is more than it has."""
    return level in model.rooms and demand(model, level) > max(
        0, model.rooms[level] - model.used[level]
    )


def looked_at_again(model: Model) -> Model:
    """What the next look at the node finds."""
    pages = [
        (payer, mapped, others)
        for (payer, _, others), mapped in zip(model.pages, model.mapped, strict=True)
        if mapped or others
    ]
    rooms = {name: room - model.used[name] for name, room in model.rooms.items()}
    return Model(model.cgroup_of, rooms, pages)


def refill(model: Model, level: str, shuffle: random.Random) -> None:
    """All processes of a cgroup write to all that they had merged, or begin anew and do so."""
    wanted_again = sum(is_phantom(model, index, level) for index in range(len(model.pages)))
    model.rooms = {level: model.rooms[level]}
    model.used[level] -= 1  # the copy that is there before its original goes
    inside = [one for one, name in model.cgroup_of.items() if level in CONTAINERS[name]]
    shuffle.shuffle(inside)
    for process in inside:
        model.unmerge(process, None, shuffle)
    model.used[level] += 1
    if wanted_again:
        model.charge((level,), wanted_again)


@given(models(), SHUFFLE)
def test_after_it_nobody_is_killed_for_what_others_share(
    model: Model, shuffle: random.Random
) -> None:
    """Whatever a cgroup had merged it can have again, at its own limit and at all above."""
    found = planned(model)
    for one in found.breaks:
        carry_out(model, one, shuffle)
    for level in sorted(model.rooms.keys() - {one.level for one in found.exposed}):
        if demand(model, level):
            refill(copy.deepcopy(model), level, shuffle)


FREED_OR_NOT = Model(
    {PROCESSES[0]: "/p1/b", PROCESSES[1]: "/p1/a"},
    {"/": 4, "/p1": 4, "/p1/a": 0, "/p1/b": 4},
    [
        ("/p1/b", [PROCESSES[1]], 0),
        ("/p1/a", [PROCESSES[0]] * 4 + [PROCESSES[1]], 0),
        ("/p1/a", [PROCESSES[0]] * 4, 0),
    ],
)
"""Two pages that look alike to who gives them back; only one of them is freed by that."""


@example(FREED_OR_NOT, random.Random(0))
@example(FREED_OR_NOT, random.Random(1))
@given(models(), SHUFFLE)
def test_no_break_exceeds_a_room_of_those_who_give_back(
    model: Model, shuffle: random.Random
) -> None:
    """Helping one pod must not kill another; and each break was needed when it was made."""
    model = copy.deepcopy(model)  # an example is the same object each time
    for one in planned(model).breaks:
        assert lacks(model, one.level)
        carry_out(model, one, shuffle)


@given(models())
def test_nothing_is_broken_where_there_is_room(model: Model) -> None:
    """Sharing is what this is all for."""
    model.rooms = {name: max(0, demand(model, name)) for name in LEVELS}
    assert planned(model) == GuardPlan((), ())


@given(models(), SHUFFLE)
def test_what_stays_exposed_cannot_be_helped(model: Model, shuffle: random.Random) -> None:
    """Every page that is shared at its expense is somebody's who has no room, or a stranger's."""
    while (found := planned(model)).breaks:
        for one in found.breaks:
            carry_out(model, one, shuffle)
        model = looked_at_again(model)
    for exposed in found.exposed:
        assert lacks(model, exposed.level)
        assert 0 <= exposed.shared_bytes <= exposed.lacking_bytes
        for index, (payer, _, others) in enumerate(model.pages):
            sharers = outside(model, index, exposed.level)
            if exposed.level in PAYERS[payer] and sharers and not others:
                assert any(
                    model.used[name]
                    + sum(
                        one in sharers and name in CONTAINERS[model.cgroup_of[one]]
                        for one in model.mapped[index]
                    )
                    > model.rooms[name]
                    for name in model.rooms
                )


@given(models())
def test_demands_are_those_of_single_pages(model: Model) -> None:
    """The sum by kinds of pages is the sum by pages."""
    found = demands(model.members(), model.shared())
    for level in LEVELS:
        assert found[level] == demand(model, level)


ONE, TWO, THREE = PROCESSES[:3]
ROOMS = {"/p2/c": 15, "/p3/d": 63}


def pages(payer: str, *mappers: Process, size: int = 48) -> Pages:
    """So many pages."""
    return Pages(PAYERS[payer], tuple((process, 1) for process in mappers), False, size)


def guard(
    shared: list[Pages],
    rooms: dict[str, int],
    breakable: tuple[Process, ...] = (ONE, TWO, THREE),
    margin: int = 0,
    guarded: set[str] | None = None,
) -> GuardPlan:
    """Three processes in a pod each."""
    members = [
        Member(ONE, CONTAINERS["/p2/c"]),
        Member(TWO, CONTAINERS["/p3/d"]),
        Member(THREE, CONTAINERS["/p1/a"]),
    ]
    return plan_guard(
        members,
        shared,
        rooms,
        breakable=breakable,
        guarded=guarded,
        page_size=1,
        margin_bytes=margin,
    )


def test_two_pods_of_which_one_pays() -> None:
    """The payer could not refill: the other gives back as much as it lacks, and no more."""
    found = guard([pages("/p2/c", ONE, TWO)], ROOMS)
    assert found == GuardPlan((Break("/p2/c", ((TWO, 1),), 33, "/p2/c"),), ())


def test_a_margin_is_left() -> None:
    """A program goes on allocating between two looks."""
    found = guard([pages("/p2/c", ONE, TWO)], ROOMS, margin=4)
    assert [one.size for one in found.breaks] == [37]


def test_what_a_sample_may_have_missed_is_kept_room_for() -> None:
    """A demand that is known within 5 bytes may be 5 more than it seems."""
    members = [Member(ONE, CONTAINERS["/p2/c"]), Member(TWO, CONTAINERS["/p3/d"])]
    shared = [pages("/p2/c", ONE, TWO)]
    found = plan_guard(
        members,
        shared,
        ROOMS,
        breakable=(ONE, TWO),
        errors={"/p2/c": 5, "/p1": 99},
        page_size=1,
        margin_bytes=0,
    )
    assert [(one.level, one.size) for one in found.breaks] == [("/p2/c", 38)]


def test_the_error_of_a_sample() -> None:
    """With room kept for it a demand is not more than a sample says, in 19 of 20 samples."""
    members = [Member(ONE, CONTAINERS["/p2/c"]), Member(TWO, CONTAINERS["/p3/d"])]
    size, every, chance = 4000, 16, random.Random(5)
    everything = [pages("/p2/c", ONE, TWO, size=size)]
    assert demand_errors(members, everything, every=1, page_size=1) == {}
    misses = 0
    for _ in range(400):
        seen = sum(chance.random() < 1 / every for _ in range(size))
        sampled = [pages("/p2/c", ONE, TWO, size=seen * every)]
        error = demand_errors(members, sampled, every=every, page_size=1)["/p2/c"]
        misses += demands(members, sampled)["/p2/c"] + error < size
    assert 0 < misses <= 20


def test_a_container_that_is_gone_left_its_charge_to_the_pod() -> None:
    """What starts in its place will want as much."""
    found = guard([pages("/p1", TWO)], {"/p1": 15, "/p3/d": 63})
    assert found.breaks == (Break("/p1", ((TWO, 1),), 33, "/p1"),)


def test_pages_that_fewer_others_map_go_first() -> None:
    """They cost fewer copies."""
    both = [pages("/p2/c", ONE, TWO, THREE, size=40), pages("/p2/c", ONE, TWO, size=10)]
    found = guard(both, {"/p2/c": 38})
    assert found.breaks == (
        Break("/p2/c", ((TWO, 1),), 10, "/p2/c"),
        Break("/p2/c", ((TWO, 1), (THREE, 1)), 2, "/p2/c"),
    )


def test_a_process_that_is_not_ours_is_left_alone() -> None:
    """It asked for merging itself; the payer is named with what it lacks."""
    found = guard([pages("/p2/c", ONE, TWO)], ROOMS, breakable=(ONE,))
    assert found == GuardPlan((), (Exposed("/p2/c", 33, 33),))


def test_what_a_cgroup_lacks_by_itself() -> None:
    """It grew into the room that merging had won: without merging it would lack as much."""
    found = guard([pages("/p3/d", ONE, TWO)], {"/p2/c": 15})
    assert found == GuardPlan((), (Exposed("/p2/c", 33, 0),))


def test_only_what_was_asked_for() -> None:
    """A person names one cgroup."""
    found = guard([pages("/p2/c", ONE, TWO)], ROOMS, guarded={"/p3/d"})
    assert found == GuardPlan((), ())


def test_many_processes() -> None:
    """A node full of pods with the same memory is planned in a moment."""
    processes = [Process(pid, 1) for pid in range(1, 401)]
    path = {one: (f"/c{one.pid}", "/", "node") for one in processes}
    shared = [
        Pages(path[processes[index]], tuple((one, 1) for one in processes), False, 1)
        for index in range(40)
    ]
    rooms: dict[str, int | None] = {f"/c{one.pid}": 40 for one in processes}
    rooms["/c1"] = 39
    found = plan_guard(
        [Member(one, path[one]) for one in processes],
        shared,
        rooms,
        breakable=processes,
        page_size=1,
        margin_bytes=0,
    )
    assert found == GuardPlan(
        (Break("/c1", tuple((one, 1) for one in processes[1:]), 1, "/c1"),), ()
    )
