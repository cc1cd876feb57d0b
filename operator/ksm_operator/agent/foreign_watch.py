"""A thread that sees processes ask for merging by themselves.

Where the kernel tells (`KsmEnterEvents`) it is seen at once, else by going over all processes
again and again, a few at a time. All of them are gone over at the start and when something may have
been missed; once a minute, all but those in containers that are enrolled. Whoever was seen once is
looked at every second for as long as it lives: the kernel does not tell when it asks anew, nor when
it stops.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ksm_operator.agent.foreign import (
    YOUNG_SECONDS,
    Candidate,
    Question,
    candidate,
    has_merged,
    merges,
    process_of,
)
from ksm_operator.agent.managers import COMMANDS
from ksm_operator.agent.news import ForeignSeen
from ksm_operator.kernel import KsmEnterEvents, Patience, Process, Unsupported
from ksm_operator.kernel.procfs import pids

if TYPE_CHECKING:
    import queue
    from collections.abc import Callable, Collection, Iterable
    from collections.abc import Set as AbstractSet

    from ksm_operator.agent.news import News

log = logging.getLogger(__name__)

READ_SECONDS: Final = 1.0
"""How long one process may keep us waiting."""
PATIENCE_SECONDS: Final = 5.0
"""How long the thread is waited for at the end, in which it may wait for several."""
TICK: Final = 0.1
"""Seconds between two looks at anything: a storm of events costs no more than this allows."""
AT_ONCE: Final = 32
"""Processes looked at in one tick, of those that were announced and of those gone over."""
SLICE_SECONDS: Final = 0.2
"""Between two slices of a round that nobody waits for."""
ROUND_SECONDS: Final = 60.0
ROUND_UNTOLD_SECONDS: Final = 2.0
"""From the end of one round to the next, with and without a kernel that tells."""
ROUND_LEAST_SECONDS: Final = 10.0
"""From one round for something missed to the next."""
REVISIT_SECONDS: Final = 1.0
REVISIT_CLOSELY_SECONDS: Final = 5.0
"""The same where the kernel does not say who merges: all ranges of a process are read for it."""
FORGET_SECONDS: Final = 600.0
"""One that has not been seen to merge for so long is left to the rounds."""
MOST_KNOWN: Final = 1000


@dataclass(slots=True)
class _Known:
    who: Candidate
    merging: bool
    last: float


class ForeignWatch(threading.Thread):
    """Brings a `ForeignSeen` whenever something changed.

    Attributes:
        domain: cgroup paths of the containers that belong together.
        enrolled: those of them whose processes need not be looked at one by one.
    """

    def __init__(
        self,
        controller: str,
        news: queue.SimpleQueue[News],
        members: Callable[[str], Iterable[int]],
        *,
        shows_flag: bool,
        listen: Callable[[], KsmEnterEvents] = KsmEnterEvents,
        own: int | None = None,
    ) -> None:
        """Prepare to watch.

        Args:
            controller: of the memory hierarchy, as /proc/PID/cgroup names it.
            news: where to bring them.
            members: asked for the pids in a container, by its cgroup path.
            shows_flag: whether this kernel says who merges (6.14).
            listen: begins to listen to the kernel, or raises `Unsupported`.
            own: pid whose children are never foreign; the agent's own if not given.
        """
        super().__init__(name="foreign mergers", daemon=True)
        self.domain: frozenset[str] = frozenset()
        self.enrolled: frozenset[str] = frozenset()
        self._controller = controller
        self._members = members
        self._news = news
        self._own = own or os.getpid()
        self._revisit_seconds = REVISIT_SECONDS if shows_flag else REVISIT_CLOSELY_SECONDS
        self._patience = Patience(merges, READ_SECONDS)
        self._known: dict[Process, _Known] = {}
        self._announced: deque[int] = deque(maxlen=8 * AT_ONCE)
        self._round: deque[int] = deque()
        self._managers: set[str] = set()
        self._begun = self._done = 0
        self._round_begun = float("-inf")
        self._hurry = self._asked = True
        self._missed = self._ended = False
        self._next_round = self._next_slice = self._next_revisit = 0.0
        self._told: ForeignSeen | None = None
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)
        self._listen = listen
        self._events: KsmEnterEvents | None = None

    def take_domain(
        self, domain: AbstractSet[str], enrolled: AbstractSet[str], *, look: bool
    ) -> None:
        """Know who belongs together from now on, and look who has left if told to."""
        self.domain = frozenset(domain)
        self.enrolled = frozenset(enrolled)
        self._missed |= look

    def ask(self) -> int:
        """Have all processes gone over now; return the number of that round."""
        number = self._begun + 1
        self._asked = True
        os.eventfd_write(self._wake, 1)
        return number

    def close(self) -> None:
        """End the thread, and what the kernel keeps for it."""
        self._ended = True
        os.eventfd_write(self._wake, 1)
        self.join(PATIENCE_SECONDS)

    def run(self) -> None:
        """Watch until closed."""
        try:
            self._events = self._listen()
            self._poll.register(self._events.fileno(), select.POLLIN)
        except Unsupported as error:
            log.info("going over all processes for foreign mergers", extra={"why": str(error)})
        while not self._ended:
            self._step()
            self._poll.poll(1000 * self._pause())
            time.sleep(0 if self._asked or self._ended else TICK)
        if self._events is not None:
            self._events.close()

    def _pause(self) -> float:
        """Seconds until there is something to do even if nobody says so."""
        due = [self._next_slice if self._round else self._next_round]
        if self._known:
            due.append(self._next_revisit)
        if self._missed:
            due.append(self._round_begun + ROUND_LEAST_SECONDS)
        if self._announced or (self._round and self._hurry):
            return 0.0
        return max(0.0, min(due) - time.monotonic())

    def _step(self) -> None:
        self._hear()
        self._look_at_announced()
        now = time.monotonic()
        if now >= self._next_revisit:
            self._revisit(now)
            self._next_revisit = now + self._revisit_seconds
        self._go_on(now)
        self._tell()

    def _hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        if self._events is None:
            return
        entered = self._events.read()
        known = set(self._announced)
        fresh = [tid for tid in entered.tids if tid not in known]
        self._missed |= entered.lost or len(fresh) + len(known) > 8 * AT_ONCE
        self._announced.extend(fresh)

    def _look_at_announced(self) -> None:
        tids = [self._announced.popleft() for _ in range(min(AT_ONCE, len(self._announced)))]
        found = {pid for tid in tids if (pid := process_of(tid)) is not None}
        self._announced.extend(self._look(self._candidates(found), closely=True))

    def _candidates(self, pids: Iterable[int]) -> list[Candidate]:
        found = (candidate(pid, self._controller) for pid in pids)
        return [one for one in found if one is not None]

    def _look(self, candidates: Collection[Candidate], *, closely: bool) -> list[int]:
        """Find out who of them merges; return the pids of those that are too young to tell."""
        mine = {one.process: one for one in candidates if not one.is_in(self.domain)}
        young = [process.pid for process, one in mine.items() if one.age() < YOUNG_SECONDS]
        questions = [
            Question(one, closely or one in self._known)
            for one in mine
            if one.pid not in young and one.pid != self._own
        ]
        for question, answer in self._patience.read_all(questions):
            who, known = mine[question.process], self._known.get(question.process)
            merging = answer
            if merging is None:
                # It does not let itself be looked at: what was so goes on, and merged pages tell.
                merging = known.merging if known else closely or has_merged(who.process)
            self._note(who, known, merging=merging, closely=closely)
        return young

    def _note(self, who: Candidate, known: _Known | None, *, merging: bool, closely: bool) -> None:
        now = time.monotonic()
        if known is not None:
            known.who, known.merging = who, merging
            known.last = now if merging else known.last
        elif (merging or closely) and not who.descends_from(self._own):
            if len(self._known) >= MOST_KNOWN:
                resting = (one for one, known in self._known.items() if not known.merging)
                if (first := next(resting, None)) is None:
                    return
                del self._known[first]
            self._known[who.process] = _Known(who, merging, now)

    def _revisit(self, now: float) -> None:
        """Look again at those that were not looked at for longest."""
        some = list(self._known)[:AT_ONCE]
        living = {one.process: one for one in self._candidates(one.pid for one in some)}
        for process in some:
            known = self._known.pop(process)
            if process not in living:
                # Its children have inherited it, and nobody has announced them.
                self._missed |= known.merging
            elif not living[process].is_in(self.domain) and now - known.last < FORGET_SECONDS:
                self._known[process] = known
        self._look([living[one] for one in some if one in self._known], closely=False)

    def _go_on(self, now: float) -> None:
        """Go over a few more processes, if a round is under way or due."""
        asked = self._asked
        if asked:
            self._asked = False  # nowhere else: a question that comes meanwhile must not be lost
        hurry = asked or (self._missed and now >= self._round_begun + ROUND_LEAST_SECONDS)
        if hurry or (not self._round and now >= self._next_round):
            self._begun += 1
            self._round_begun = now
            self._hurry, self._missed = hurry, False
            self._managers = set()
            known = set() if hurry else self._enrolled_pids()
            self._round = deque(sorted(pid for pid in pids() if pid not in known))
        if not self._round or (now < self._next_slice and not self._hurry):
            return
        while self._round and not self._ended:
            some = [self._round.popleft() for _ in range(min(AT_ONCE, len(self._round)))]
            found = self._candidates(some)
            self._managers.update(one.command for one in found if one.command in COMMANDS)
            self._look(found, closely=False)
            if not self._hurry:
                break
        self._next_slice = now + SLICE_SECONDS
        if not self._round:
            self._done = self._begun if self._hurry else self._done
            told = self._events is not None
            self._next_round = now + (ROUND_SECONDS if told else ROUND_UNTOLD_SECONDS)

    def _enrolled_pids(self) -> set[int]:
        """Most processes of a full node, for one read for each of their containers."""
        return {pid for path in self.enrolled & self.domain for pid in self._members(path)}

    def _tell(self) -> None:
        if not self._done:
            return
        mergers = tuple(one.who for one in self._known.values() if one.merging)
        seen = ForeignSeen(
            tuple(sorted(mergers, key=lambda one: one.process)),
            frozenset(self._managers) if not self._round else self._told_managers(),
            self._done,
        )
        if seen != self._told:
            self._told = seen
            self._news.put(seen)

    def _told_managers(self) -> frozenset[str]:
        return self._told.managers if self._told is not None else frozenset()
