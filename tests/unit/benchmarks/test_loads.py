"""What the loads are made of."""

from dataclasses import replace

import pytest

from benchmarks.governor.loads import LOADS, SLOTS, Container, Scale, churn, heap, title
from benchmarks.governor.program import TREE, command

SCALE = Scale(mebibytes=1024, seconds=120.0, seed=1, java=True)
PROGRAMS = TREE / "benchmarks/governor/programs"


@pytest.mark.parametrize("name", LOADS)
def test_a_load_is_the_same_for_every_algorithm(name: str) -> None:
    """Otherwise nothing could be compared."""
    assert LOADS[name].containers(SCALE) == LOADS[name].containers(SCALE)


@pytest.mark.parametrize("name", LOADS)
@pytest.mark.parametrize("java", [True, False])
def test_every_program_is_there(name: str, java: bool) -> None:  # noqa: FBT001 - a parameter
    """A load that cannot be played is found here, and not after an hour."""
    for one in LOADS[name].containers(replace(SCALE, java=java)):
        words, variables = command(one, PROGRAMS)
        if one.program == "java":
            assert (PROGRAMS / "Heap.java").is_file()
            assert words[-4] == "Heap", "three arguments"
        else:
            assert (PROGRAMS / f"{one.program}.py").is_file()
            assert int(variables["PYTHONHASHSEED"]) > 0


@pytest.mark.parametrize("name", LOADS)
def test_each_container_is_one_of_its_own(name: str) -> None:
    """They are told apart by what they are, and strings have other hashes in each interpreter."""
    made = LOADS[name].containers(SCALE)
    assert len(set(made)) == len(made)
    assert len({one.hash_seed for one in made}) == len(made)


def living(made: tuple[Container, ...], at: float) -> int:
    """How many live at a moment."""
    return sum(one.starts <= at and (one.ends is None or at < one.ends) for one in made)


def test_containers_come_in_the_place_of_those_that_go() -> None:
    """Memory stays about the same, and what is in it does not."""
    made = churn(SCALE)
    assert {living(made, at) for at in range(10, 120)} == {SLOTS}
    assert len(made) > 3 * SLOTS
    assert all(one.ends is None or one.ends < SCALE.seconds for one in made)


def test_the_seed_decides_who_lives_how_long() -> None:
    """Another one is another load."""
    assert churn(SCALE) != churn(replace(SCALE, seed=2))


def test_noise_differs_from_process_to_process() -> None:
    """The same in two of them would be worth merging."""
    made = LOADS["noise"].containers(SCALE)
    assert len({one.arguments[1] for one in made}) == len(made)
    assert {one.huge: one.arguments[2] for one in made} == {True: "huge", False: "small"}


def test_a_heap_has_room_for_its_garbage() -> None:
    """A JVM without it collects all the time, or ends."""
    for one in heap(SCALE):
        size, live, garbage, _ = (int(word) for word in one.arguments)
        assert live + garbage < size


def test_what_stands_in_for_a_jvm_is_named() -> None:
    """Figures must say what they are of."""
    assert "JVM" in title("heap", java=True)
    assert "stands in" in title("mix", java=False)
    assert "java" not in title("static", java=False)
