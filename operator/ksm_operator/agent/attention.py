"""When which container is looked at: at once and often while it is new, then when there is news."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from ksm_operator.agent.newborn import Newborn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ksm_operator.agent.enrolment import Enrolment

SLICE_SECONDS: Final = 0.2
"""Work done in one tick before other things get their turn."""
ENROL_DELAYS: Final = (0.0, 0.01, 0.03, 0.06, 0.1, 0.3, 0.5, 1.0, 3.0, 5.0)
"""Seconds between looks at a container that is new to us: its runtime fills it, forks and execs."""
POSTPONED_DELAY: Final = 10.0
ROUNDS: Final = 5
"""Looks in which every process of a node is verified once: each is a fifth of the node's work."""
ENTERED_DELAY: Final = 1.0
"""Seconds until a process that was put into a container is looked at: a probe has ended by then."""


class Attention:
    """Has containers enrolled, each in its time."""

    def __init__(self, enrolment: Enrolment, stopped: Callable[[], bool]) -> None:
        """Know of no container yet.

        Args:
            enrolment: what attends to one.
            stopped: whether the agent is to end.
        """
        self._enrolment = enrolment
        self._stopped = stopped
        self._attempts: dict[str, tuple[int, float]] = {}
        self._glances: set[str] = set()
        self._newborn = Newborn()
        self._forced: dict[str, float] = {}
        self._round = 0
        self._next_look = float("inf")
        self._unsettled: set[str] = set()

    def enrol(self, wanted: Iterable[str], pod_of: Callable[[str], str]) -> bool:
        """Attend to containers that are due.

        Args:
            wanted: cgroup paths of all containers to merge.
            pod_of: the pod uid of a path.

        Returns:
            Whether every one of them has been attended to at least once, and no process of them
            is about to be tried again after a first try that came at a bad moment.
        """
        now = time.monotonic()
        ends = now + SLICE_SECONDS
        self._follow(list(wanted), now)
        for path, (index, due) in sorted(self._attempts.items(), key=lambda one: one[1][1]):
            now = time.monotonic()
            if due > now or now > ends or self._stopped():
                break
            glance = path in self._glances
            self._glances.discard(path)
            postponed = (not glance or self._enrolment.has_news(path)) and self._enrolment.attend(
                path, pod_of(path)
            )
            self._plan(path, index, now, postponed=postponed)
        self._unsettled &= self._attempts.keys()
        soonest = min((due for _, due in self._attempts.values()), default=float("inf"))
        self._next_look = min(soonest, self._newborn.next_due())
        return not self._unsettled and all(index > 0 for index, _ in self._attempts.values())

    def _plan(self, path: str, index: int, now: float, *, postponed: bool) -> None:
        """Say when a container is looked at next, after a look."""
        planned = self._forced.pop(path, None)
        if planned is not None and index:
            # It came on top of those that are planned, whose time is yet to come.
            if postponed:
                self._unsettled.add(path)
                planned = min(planned, now + ENROL_DELAYS[min(index, len(ENROL_DELAYS) - 1)])
            self._attempts[path] = (index, planned)
            return
        looks = index + 1
        if looks < len(ENROL_DELAYS):
            pause = ENROL_DELAYS[looks]
        else:
            pause = POSTPONED_DELAY if postponed else float("inf")
        self._attempts[path] = (looks, now + pause)
        if postponed and looks < len(ENROL_DELAYS):
            self._unsettled.add(path)
        else:
            self._unsettled.discard(path)

    def _follow(self, wanted: Sequence[str], now: float) -> None:
        """Have those on the list that are wanted, and those due now of which there is news."""
        for path in self._attempts.keys() - set(wanted):
            del self._attempts[path]
            self._forced.pop(path, None)
        for path in wanted:
            self._attempts.setdefault(path, (0, now))
        for path in (*self._enrolment.follow_huge_pages(), *self._enrolment.follow_consent()):
            if path in self._attempts:
                self._attempts[path] = (self._attempts[path][0], now)
                self._glances.discard(path)
        for path in self._newborn.due(now):
            # One that was put off is tried again as planned: each try stops somebody.
            if path in self._unsettled or path not in self._attempts:
                continue
            index, due = self._attempts[path]
            if due > now and self._enrolment.has_news(path):
                self._forced[path] = due
                self._attempts[path] = (index, now)

    def appeared(self, path: str) -> None:
        """Glance at a container often while its runtime fills it."""
        self._newborn.add(path, time.monotonic())

    def vanished(self, path: str) -> None:
        """Glance at a container no more."""
        self._newborn.drop(path)

    def glance(self, path: str) -> None:
        """See soon whether a container has a new process (`kubectl exec`)."""
        looks, due = self._attempts.get(path, (0, 0.0))
        soon = time.monotonic() + ENTERED_DELAY
        if due > soon:
            self._attempts[path] = (looks, soon)
            self._glances.add(path)

    def look_again(self, *, lasts: bool) -> None:
        """Attend to containers once more: to each that has somebody new, and to a part of the rest.

        Args:
            lasts: what was done is undone by no exec, nor by growth. Else the part is all.
        """
        now = time.monotonic()
        self._round = (self._round + 1) % ROUNDS
        self._glances = {
            path for path in self._attempts if lasts and hash(path) % ROUNDS != self._round
        }
        self._attempts = {path: (max(index, 1), now) for path, (index, _) in self._attempts.items()}

    def pause(self) -> None:
        """Look at nothing until `enrol` is called again: nobody may be enrolled now."""
        self._next_look = float("inf")

    def forget(self) -> None:
        """Know of no container: all are given back."""
        self._attempts.clear()
        self._forced.clear()
        self._unsettled.clear()
        self.pause()

    def next_due(self) -> float:
        """Return the monotonic time at which some container is to be looked at."""
        return self._next_look
