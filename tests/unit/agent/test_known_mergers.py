"""Whom the thread goes on looking at."""

from ksm_operator.agent.foreign import Candidate
from ksm_operator.agent.known_mergers import FORGET_SECONDS, MOST_KNOWN, KnownMergers
from ksm_operator.kernel import Process


def candidate(pid: int) -> Candidate:
    """A process of the host."""
    return Candidate(Process(pid, 1), "one", "/", None)


def test_who_merges_is_told_in_one_order() -> None:
    """The same mergers must be the same news."""
    known = KnownMergers()
    for pid, merging in ((3, True), (1, True), (2, False)):
        known.note(candidate(pid), 0.0, merging=merging)
    assert [one.process.pid for one in known.merging()] == [1, 3]
    known.note(candidate(3), 1.0, merging=False)
    assert [one.process.pid for one in known.merging()] == [1]


def test_all_get_their_turn() -> None:
    """A thousand are looked at thirty-two at a time, and none of them can hide behind others."""
    known = KnownMergers()
    for pid in range(5):
        known.note(candidate(pid), 0.0, merging=True)
    seen = []
    for _ in range(5):
        for process, one in known.take(2).items():
            seen.append(process.pid)
            assert known.keep(one, 1.0)
    assert seen == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]


def test_who_has_not_merged_for_long_is_forgotten() -> None:
    """One that asked once and never again is no reason to look every second for a year."""
    known = KnownMergers()
    known.note(candidate(1), 100.0, merging=True)
    known.note(candidate(1), 200.0, merging=False)
    (one,) = known.take(1).values()
    assert known.keep(one, 99.0 + FORGET_SECONDS)
    known.note(candidate(1), 100.0 + FORGET_SECONDS, merging=True)
    (one,) = known.take(1).values()
    assert known.keep(one, 99.0 + 2 * FORGET_SECONDS), "it merged again"
    (one,) = known.take(1).values()
    assert not known.keep(one, 100.0 + 2 * FORGET_SECONDS)
    assert not known


def test_one_that_merges_finds_room() -> None:
    """Who asks a thousand times in a thousand names must not hide whoever really merges."""
    known = KnownMergers()
    known.note(candidate(0), 0.0, merging=True)
    for pid in range(1, MOST_KNOWN):
        known.note(candidate(pid), 0.0, merging=False)
    known.note(candidate(MOST_KNOWN), 0.0, merging=True)
    assert len(known) == MOST_KNOWN
    assert known.get(Process(1, 1)) is None, "the one that was not looked at for longest"
    assert [one.process.pid for one in known.merging()] == [0, MOST_KNOWN]


def test_what_is_known_is_bounded() -> None:
    """A fork bomb that merges must not take the agent's memory; isolation is broken anyway."""
    known = KnownMergers()
    for pid in range(MOST_KNOWN + 5):
        known.note(candidate(pid), 0.0, merging=True)
    assert len(known) == MOST_KNOWN
