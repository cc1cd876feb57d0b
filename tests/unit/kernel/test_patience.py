"""Reads that may hang."""

import threading
from collections.abc import Iterator

import pytest

from ksm_operator.kernel.patience import MOST_LEFT_BEHIND, Patience

HANGS = range(100, 200)


class Door:
    """Reads that hang until it is opened."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.asked: list[int] = []

    def read(self, item: int) -> int:
        """Twice the number; hangs for some of them."""
        self.asked.append(item)
        if item in HANGS:
            self.open.wait()
        return 2 * item


@pytest.fixture
def door() -> Iterator[Door]:
    """Nobody hangs for ever."""
    made = Door()
    yield made
    made.open.set()


def test_one_that_hangs_costs_no_other_its_answer(door: Door) -> None:
    """A process that locks its memory must not hide those behind it."""
    patience = Patience(door.read, 0.1)
    assert dict(patience.read_all([1, 100, 2])) == {1: 2, 100: None, 2: 4}
    assert list(patience.read_all([])) == []


def test_one_that_hangs_is_asked_once(door: Door) -> None:
    """Each time would leave another thread behind."""
    patience = Patience(door.read, 0.1)
    for _ in range(3):
        assert dict(patience.read_all([100, 1])) == {100: None, 1: 2}
    assert door.asked.count(100) == 1


def test_many_that_hang_are_not_waited_for(door: Door) -> None:
    """A pod has any number of processes; the agent has not."""
    patience, before = Patience(door.read, 0.05), threading.active_count()
    answers = dict(patience.read_all([*HANGS, 1]))
    assert answers == dict.fromkeys([*HANGS, 1])
    assert threading.active_count() <= before + MOST_LEFT_BEHIND
    door.open.set()
    for thread in threading.enumerate():
        if thread.name == "reader":
            thread.join()
    assert dict(patience.read_all([100, 1])) == {100: 200, 1: 2}, "it goes on once they come back"
