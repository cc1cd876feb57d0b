"""Whom the thread that looks for foreign mergers looks at."""

import os
import queue
import select
from collections.abc import Iterable
from types import SimpleNamespace

import pytest

from ksm_operator.agent import foreign_watch
from ksm_operator.agent.arrivals import MOST_WAITING
from ksm_operator.agent.foreign import Answer, Candidate, Question
from ksm_operator.agent.foreign_watch import (
    AT_ONCE,
    LISTING_MOST_SECONDS,
    LISTING_SECONDS,
    ForeignWatch,
)
from ksm_operator.agent.placement import place
from ksm_operator.agent.rounds import ROUND_SECONDS, ROUND_UNTOLD_SECONDS
from ksm_operator.agent.verdicts import MOST_CPU_SHARE
from ksm_operator.kernel import Process
from ksm_operator.kernel.ksm_enter import Asked


class Looks:
    """A watch of this machine's processes whose thread is never started."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._looked: list[int] = []
        monkeypatch.setattr(foreign_watch, "candidate", self._look)
        self.watch = ForeignWatch(
            "memory",
            queue.SimpleQueue(),
            {"/enrolled": [os.getpid()], "/selected": [os.getppid()]}.__getitem__,
            shows_flag=True,
        )
        self.watch.take_domain({"/enrolled", "/selected"}, {"/enrolled"})
        self._now = 1000.0

    def _look(self, pid: int, _controller: str) -> None:
        self._looked.append(pid)

    def round(self) -> set[int]:
        """The next one, whole."""
        self._looked.clear()
        self._now += ROUND_SECONDS + ROUND_UNTOLD_SECONDS
        self.watch._go_on(self._now)
        while self.watch._round:
            self._now += 1.0
            self.watch._go_on(self._now)
        return set(self._looked)


def test_a_round_passes_over_enrolled_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    """They hold most processes of a full node; nothing that is found out of them matters."""
    looks = Looks(monkeypatch)
    assert {os.getpid(), os.getppid()} <= looks.round(), "the first is of all processes"
    later = looks.round()
    assert os.getppid() in later
    assert os.getpid() not in later
    looks.watch.ask()
    assert os.getpid() in looks.round(), "somebody waits for a look at all"


MINE = f"/kubepods/pod00000000-1111-2222-3333-444444444444/{'ab' * 32}"
NOW = 1000.0
"""By the clock of the watch, which stands still."""
OLD, YOUNG = 1, 1 << 62
"""Clock ticks since boot of a process's start: long ago, and yet to come."""


class Stage:
    """A watch whose thread is never started, of processes that are told here.

    Attributes:
        living: cgroup and start of each process by pid.
        answers: whether each merges; None for one that does not let itself be looked at.
        asked: the questions about them.
        command: their name.
        cpu_seconds: what it takes to see whether one merges.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.living: dict[int, tuple[str, int]] = {}
        self.answers: dict[int, bool | None] = {}
        self.asked: list[Question] = []
        self.command = "one"
        self.cpu_seconds = 0.0
        monkeypatch.setattr(foreign_watch, "time", SimpleNamespace(monotonic=lambda: NOW))
        monkeypatch.setattr(foreign_watch, "pids", lambda: iter(self.living))
        monkeypatch.setattr(foreign_watch, "process_of", self._process_of)
        monkeypatch.setattr(foreign_watch, "candidate", self._candidate)
        monkeypatch.setattr(foreign_watch, "merges", self._merges)
        self.news: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.watch = ForeignWatch("memory", self.news, self._members, shows_flag=True)  # type: ignore[arg-type]
        self.watch.take_domain({MINE}, set())
        self.watch._patience = SimpleNamespace(read_all=self._answer)  # type: ignore[assignment]
        self.begin(1, merges=False, cgroup=MINE)
        self.tick()

    def _members(self, path: str) -> list[int]:
        return [pid for pid, (cgroup, _) in self.living.items() if cgroup == path]

    def _process_of(self, tid: int) -> int | None:
        return tid if tid in self.living else None

    def _candidate(self, pid: int, _controller: str) -> Candidate | None:
        if pid not in self.living:
            return None
        cgroup, start = self.living[pid]
        return Candidate(Process(pid, start), self.command, cgroup, place(cgroup))

    def _answer(self, questions: Iterable[Question]) -> list[tuple[Question, Answer | None]]:
        self.asked += questions
        return [(one, self._answer_one(one)) for one in questions]

    def _answer_one(self, question: Question) -> Answer | None:
        merging = self.answers.get(question.process.pid, False)
        return None if merging is None else self.watch._read(question)

    def _merges(self, question: Question) -> Answer:
        return Answer(bool(self.answers.get(question.process.pid)), self.cpu_seconds)

    def begin(self, pid: int, *, merges: bool | None, cgroup: str = "/", start: int = OLD) -> None:
        """Have a process live."""
        self.living[pid] = (cgroup, start)
        self.answers[pid] = merges

    def tick(self, *tids: int, lost: bool = False) -> list[int]:
        """Have the kernel tell that these asked; return who merges by what is seen then."""
        self.watch._events = SimpleNamespace(read=lambda: Asked(frozenset(tids), lost))  # type: ignore[assignment]
        self.watch._rounds.told = True
        self.watch._next_revisit = self.watch._next_listing = 0.0
        self.watch._step()
        return [one.process.pid for one in self.watch._known.merging()]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """After the first look."""
    return Stage(monkeypatch)


A, B = 1 << 23, (1 << 23) + 1
"""Pids that no machine has: what is not told here is not there."""


def test_the_child_of_one_that_has_ended_is_found(stage: Stage) -> None:
    """The kernel names the parent of who inherits merging, and daemons have none any more."""
    stage.begin(B, merges=True)
    assert stage.tick() == [], "nobody was announced, and no round is due"
    assert stage.tick(A) == [B]


def test_the_child_of_one_that_changed_its_mind_is_found(stage: Stage) -> None:
    """A parent that is looked at and does not merge would hide it."""
    stage.begin(A, merges=False)
    stage.begin(B, merges=True)
    assert stage.tick(A) == [B]


def test_a_child_of_one_who_is_known_is_found(stage: Stage) -> None:
    """A fork is told before the child is there, and a large one takes seconds."""
    stage.begin(A, merges=True)
    assert stage.tick(A) == [A]
    stage.begin(B, merges=True)
    assert stage.tick() == [A, B]


def test_a_domain_that_forks_costs_nothing(stage: Stage) -> None:
    """Its shells fork and end all day long, and nothing that they start is foreign."""
    stage.begin(A, merges=True, cgroup=MINE)
    stage.begin(B, merges=True, cgroup=MINE)
    assert stage.tick(A, B) == []
    assert not stage.watch._stirred
    assert not stage.watch._rounds.unfound
    assert stage.asked == []


@pytest.mark.parametrize("announced", [True, False])
def test_who_is_too_young_gets_another_turn(stage: Stage, *, announced: bool) -> None:
    """It may not yet be where it belongs; nobody tells when it is old enough."""
    stage.begin(A, merges=True, start=YOUNG)
    if not announced:
        stage.watch.ask()
    assert stage.tick(*([A] if announced else [])) == []
    assert stage.asked == []
    stage.begin(A, merges=True)
    assert stage.tick() == [A]


def test_who_was_too_young_and_has_ended_leads_to_its_child(stage: Stage) -> None:
    """To fork and end within a third of a second is what every daemon does."""
    stage.begin(A, merges=True, start=YOUNG)
    assert stage.tick(A) == []
    del stage.living[A]
    stage.begin(B, merges=True)
    assert stage.tick() == [B]


def test_lost_events_lead_to_a_round(stage: Stage) -> None:
    """Nobody knows who was in them."""
    assert not stage.watch._rounds.missed
    stage.tick(lost=True)
    assert stage.watch._rounds.missed


def test_the_end_of_a_merger_leads_to_a_round(stage: Stage) -> None:
    """Children that it had before anybody listened merge on."""
    stage.begin(A, merges=True)
    stage.tick(A)
    del stage.living[A]
    assert stage.tick() == []
    assert stage.watch._rounds.missed


def test_the_end_of_one_that_asked_and_does_not_merge_leads_to_no_round(stage: Stage) -> None:
    """Nobody has anything to inherit from it."""
    stage.begin(A, merges=False)
    stage.tick(A)
    del stage.living[A]
    stage.tick()
    assert not stage.watch._rounds.missed


def test_who_does_not_let_itself_be_looked_at_is_what_it_was(stage: Stage) -> None:
    """It can lock its memory for as long as it likes: that must neither acquit nor accuse it."""
    stage.begin(A, merges=True)
    stage.begin(B, merges=False)
    assert stage.tick(A, B) == [A]
    stage.answers.update({A: None, B: None})
    assert stage.tick() == [A]
    stage.answers[A] = False
    assert stage.tick() == []


def test_who_was_seen_to_ask_and_locks_its_memory_merges(stage: Stage) -> None:
    """Else a process could not be noticed that never lets itself be looked at."""
    stage.begin(A, merges=None)
    assert stage.tick(A) == [A]


def test_who_joins_the_domain_is_foreign_no_more(stage: Stage) -> None:
    """A container may be seen to merge before the agent is told that it belongs there."""
    stage.begin(A, merges=True)
    assert stage.tick(A) == [A]
    stage.begin(A, merges=True, cgroup=MINE)
    assert stage.tick() == []
    assert not stage.watch._rounds.missed


def test_who_leaves_the_domain_is_looked_at_at_once(stage: Stage) -> None:
    """It may merge by itself, and has asked while that was nobody's business."""
    stage.begin(A, merges=True, cgroup=MINE)
    stage.begin(B, merges=False, cgroup=MINE)
    assert stage.tick(A) == []
    woken = select.poll()
    woken.register(stage.watch._wake, select.POLLIN)
    stage.watch.take_domain(set(), set(), [MINE])
    assert woken.poll(0), "the thread sleeps for up to a minute"
    assert stage.tick() == [A]
    assert [one.process.pid for one in stage.asked] == [1, A, B], "nobody else is looked at"
    assert not woken.poll(0)


def test_more_leavers_than_can_be_remembered_lead_to_a_round(stage: Stage) -> None:
    """A container may have any number of processes, and all of them may merge."""
    for pid in range(A, A + MOST_WAITING + 1):
        stage.begin(pid, merges=True, cgroup=MINE)
    stage.watch.take_domain(set(), set(), [MINE])
    stage.tick()
    assert stage.watch._rounds.missed


def test_who_manages_ksmd_is_told_of_processes_of_the_host(stage: Stage) -> None:
    """Any process of a pod may take the name, and the node would never be merged on."""
    stage.command = "ksmtuned"
    stage.begin(A, merges=False, cgroup=MINE)
    stage.watch.ask()
    stage.tick()
    assert stage.watch._managers == set()
    stage.begin(B, merges=False)
    stage.watch.ask()
    stage.tick()
    assert stage.watch._managers == {"ksmtuned"}


def test_a_large_one_is_not_read_at_every_look(stage: Stage) -> None:
    """Before 6.14 that takes the kernel seconds for a large virtual machine."""
    stage.cpu_seconds = 7.0
    stage.begin(A, merges=True)
    for _ in range(3):
        assert stage.tick(A) == [A]
    stage.watch.ask()
    assert stage.tick() == [A]
    assert [one.process.pid for one in stage.asked] == [A]


def test_one_that_takes_too_long_is_not_read_at_every_look(stage: Stage) -> None:
    """Nobody waits for its answer, which costs all the more."""
    stage.begin(A, merges=None)
    assert stage.tick(A) == [A]
    question, *more = stage.asked
    stage.cpu_seconds, stage.answers[A] = 7.0, False
    stage.watch._read(question)
    assert stage.tick() == [], "what the reader found in the end counts"
    assert stage.tick(A) == [A], "it asked anew"
    assert stage.asked == [question, *more]


def test_where_looks_are_dear_newcomers_are_listed_more_rarely(stage: Stage) -> None:
    """A domain that forks all the time must not have all ranges of all newcomers read."""
    stage.cpu_seconds = 0.005
    for pid in range(A, A + 16):
        stage.begin(pid, merges=False)
    stage.tick(B + 100)
    assert stage.watch._next_listing == pytest.approx(
        NOW + LISTING_SECONDS + 16 * 0.005 / MOST_CPU_SHARE
    )
    stage.cpu_seconds = 7.0
    stage.begin(A + 16, merges=False)
    stage.tick(B + 100)
    assert stage.watch._next_listing == NOW + LISTING_MOST_SECONDS


def test_a_round_looks_first_at_who_is_new(stage: Stage) -> None:
    """What is on its list is not listed as new any more, and its last slice is seconds away."""
    for pid in range(A, A + 4 * AT_ONCE):
        stage.begin(pid, merges=False)
    stage.watch.ask()
    stage.tick()
    last = A + 4 * AT_ONCE
    stage.begin(last, merges=True)
    stage.watch._rounds._next = 0.0
    assert stage.tick() == [last]
    assert stage.watch._round, "the others have yet to be gone over"
