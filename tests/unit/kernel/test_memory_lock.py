"""Reads that are waited for only so long, with locks of the test's own."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ksm_operator.kernel import Postponed, ProcessGone
from ksm_operator.kernel.memory_lock import (
    MOST_LEFT_BEHIND,
    BoundedReads,
    cpu_seconds,
    must_not_hang,
    under_memory_lock,
)

NOBODY = 1 << 30
"""No process has such a pid, so nothing is added for its memory."""


@pytest.fixture
def lock() -> Iterator[threading.Event]:
    """Held until it is set, which the end of a test does."""
    made = threading.Event()
    yield made
    made.set()


def test_who_comes_back_is_asked_again(lock: threading.Event) -> None:
    """A garbage collection may hold the lock for a moment; that is no reason to forget somebody."""
    reads = BoundedReads(0.05)

    def read() -> str:
        lock.wait()
        return "read"

    for _ in range(2):
        with pytest.raises(Postponed, match="MemoryBusy"):
            reads.make(NOBODY, read)
    lock.set()
    deadline = time.monotonic() + 60
    while True:
        try:
            assert reads.make(NOBODY, read) == "read"
        except Postponed:
            assert time.monotonic() < deadline
            continue
        break


def test_there_is_an_end_to_readers(lock: threading.Event) -> None:
    """As many as a hostile domain likes would cost the node its threads."""
    reads = BoundedReads(0.001)
    for pid in range(MOST_LEFT_BEHIND):
        with pytest.raises(Postponed):
            reads.make(NOBODY + pid, lock.wait)
    count = threading.active_count()
    with pytest.raises(Postponed):
        reads.make(NOBODY + MOST_LEFT_BEHIND, lambda: None)
    assert threading.active_count() == count


def test_what_a_read_raises_is_raised() -> None:
    """A process that has ended is told from one that cannot be read."""

    def gone() -> None:
        raise ProcessGone(7)

    reads = BoundedReads()
    with pytest.raises(ProcessGone):
        reads.make(NOBODY, gone)
    assert reads.make(NOBODY, lambda: "the reader goes on") == "the reader goes on"


def in_a_thread(act: Callable[[], object]) -> object:
    """What it returns in a thread of its own, which no other test is run by."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(act).result()


def test_only_who_says_so_has_others_read() -> None:
    """A command that a person runs needs no second thread."""
    here = threading.current_thread()
    assert under_memory_lock(NOBODY, threading.current_thread) is here

    def patient() -> bool:
        must_not_hang()
        return under_memory_lock(NOBODY, threading.current_thread) is threading.current_thread()

    assert not in_a_thread(patient)


def test_what_others_read_is_on_ones_account() -> None:
    """What a look costs decides how soon the next one is due."""

    def spin() -> float:
        began = time.thread_time()
        while time.thread_time() - began < 0.02:
            pass
        return time.thread_time() - began

    def cost() -> float:
        must_not_hang()
        began = cpu_seconds()
        under_memory_lock(NOBODY, spin)
        return cpu_seconds() - began

    spent = in_a_thread(cost)
    assert isinstance(spent, float)
    assert spent >= 0.02
