"""A thread that sees processes ask for merging by themselves.

Where the kernel tells (`KsmEnterEvents`) it is seen at once, else by going over all processes
again and again, a few at a time (`Rounds`). All of them are gone over at the start and when
something may have been missed; once a minute, all but those in containers that are enrolled.
Whoever was seen once is looked at again and again (`KnownMergers`): the kernel does not tell when
it asks anew, nor when it stops. Nor does it name a child that inherits merging: while anybody is
known, and when one who asked cannot be found, those who are new are looked at (`Arrivals`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import select
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

from ksm_operator.agent.arrivals import Arrivals
from ksm_operator.agent.foreign import (
    YOUNG_SECONDS,
    Answer,
    Candidate,
    Question,
    candidate,
    has_merged,
    merges,
    process_of,
)
from ksm_operator.agent.known_mergers import KnownMergers
from ksm_operator.agent.managers import is_of_a_manager
from ksm_operator.agent.news import ForeignSeen
from ksm_operator.agent.rounds import Rounds
from ksm_operator.agent.verdicts import MOST_CPU_SHARE, Verdict, Verdicts
from ksm_operator.kernel import KsmEnterEvents, Patience, Process, Unsupported
from ksm_operator.kernel.procfs import pids

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
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
LISTING_SECONDS: Final = 1.0
"""Between two looks at who is new: a domain that forks all the time gives a reason all the time."""
LISTING_MOST_SECONDS: Final = 10.0
"""The same where it is dear to look at them: before 6.14, their ranges are read."""
REVISIT_SECONDS: Final = 1.0
REVISIT_CLOSELY_SECONDS: Final = 5.0
"""The same where the kernel does not say who merges: all ranges of a process are read for it."""


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
        self._patience = Patience(self._read, READ_SECONDS)
        self._found: queue.SimpleQueue[tuple[Process, Answer]] = queue.SimpleQueue()
        self._known = KnownMergers()
        self._announced: deque[int] = deque(maxlen=8 * AT_ONCE)
        self._arrivals = Arrivals()
        self._verdicts = Verdicts()
        self._spent = 0.0
        self._left: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._rounds = Rounds()
        self._round: deque[int] = deque()
        self._managers: set[str] = set()
        self._stirred = self._ended = False
        self._next_slice = self._next_revisit = self._next_listing = 0.0
        self._told: ForeignSeen | None = None
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)
        self._listen = listen
        self._events: KsmEnterEvents | None = None

    def take_domain(
        self, domain: AbstractSet[str], enrolled: AbstractSet[str], left: Iterable[str] = ()
    ) -> None:
        """Know who belongs together from now on.

        Args:
            domain: see the attribute.
            enrolled: see the attribute.
            left: cgroup paths of containers that are there and belong to it no more. They are
                looked at now: they may merge by themselves, and nothing tells that anew.
        """
        self.domain = frozenset(domain)
        self.enrolled = frozenset(enrolled)
        for path in left:
            self._left.put(path)
            os.eventfd_write(self._wake, 1)

    def ask(self) -> int:
        """Have all processes gone over now; return the number of that round."""
        number = self._rounds.begun + 1
        self._rounds.asked = True
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
            self._rounds.told = True
        except Unsupported as error:
            log.info("going over all processes for foreign mergers", extra={"why": str(error)})
        while not self._ended:
            self._step()
            self._poll.poll(1000 * self._pause())
            time.sleep(0 if self._rounds.asked or self._ended else TICK)
        if self._events is not None:
            self._events.close()

    def _pause(self) -> float:
        """Seconds until there is something to do even if nobody says so."""
        if self._announced or self._arrivals or (self._round and self._rounds.hurry):
            return 0.0
        due = [self._next_slice if self._round else self._rounds.due()]
        if self._known:
            due.append(self._next_revisit)
        if self._stirred:
            due.append(self._next_listing)
        return max(0.0, min(due) - time.monotonic())

    def _step(self) -> None:
        self._hear()
        self._look_at_announced()
        now = time.monotonic()
        if now >= self._next_revisit:
            self._revisit(now)
            self._next_revisit = now + self._revisit_seconds
        self._list(now)
        self._see_who_left()
        self._go_on(now)
        self._look_at_arrivals()
        self._tell()

    def _hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)
        if self._events is None:
            return
        entered = self._events.read()
        known = set(self._announced)
        fresh = [tid for tid in entered.tids if tid not in known]
        self._rounds.missed |= entered.lost or len(fresh) + len(known) > 8 * AT_ONCE
        self._announced.extend(fresh)

    def _look_at_announced(self) -> None:
        tids = [self._announced.popleft() for _ in range(min(AT_ONCE, len(self._announced)))]
        if not tids:
            return
        whose = {process_of(tid) for tid in tids}
        found = self._candidates(pid for pid in whose if pid is not None)
        if len(found) < len(whose):
            # It may have forked before it ended, or be a thread of a process that lives on.
            self._stirred = self._rounds.unfound = True
        self._announced.extend(self._look(found, closely=True))

    def _list(self, now: float) -> None:
        """See who is new, if there is a reason to."""
        if not (self._stirred and self._rounds.begun) or now < self._next_listing:
            return
        self._stirred = False
        self._next_listing = now + LISTING_SECONDS
        new = self._arrivals.compare(set(pids()))
        if len(new) > AT_ONCE:
            new -= self._enrolled_pids()
        self._rounds.missed |= bool(self._arrivals.wait(sorted(new), closely=True))

    def _see_who_left(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                members = self._members(self._left.get_nowait())
                self._rounds.missed |= bool(self._arrivals.wait(members, closely=True))

    def _look_at_arrivals(self) -> None:
        some = self._arrivals.take(AT_ONCE)
        if not some:
            return
        self._keep_verdicts()
        before = self._spent
        for closely in (True, False):
            self._look_once([pid for pid in some if some[pid] is closely], closely=closely)
        self._keep_verdicts()
        now, wait = time.monotonic(), (self._spent - before) / MOST_CPU_SHARE
        later = max(now, self._next_listing) + wait
        self._next_listing = min(later, now + LISTING_MOST_SECONDS)

    def _look_once(self, some: Iterable[int], *, closely: bool = False) -> None:
        """Look at those who were not seen to ask; one who is too young gets another turn."""
        found = self._candidates(some)
        self._managers.update(one.command for one in found if is_of_a_manager(one))
        young = self._look(found, closely=closely, asked=False)
        self._rounds.missed |= bool(self._arrivals.wait(young, closely=closely))

    def _candidates(self, pids: Iterable[int]) -> list[Candidate]:
        found = (candidate(pid, self._controller) for pid in pids)
        return [one for one in found if one is not None]

    def _look(
        self, candidates: Collection[Candidate], *, closely: bool, asked: bool = True
    ) -> list[int]:
        """Find out who of them merges; return the pids of those that are too young to tell.

        Args:
            candidates: whom to look at.
            closely: at least one of them was made mergeable, as far as is known.
            asked: they are known from now on, also if they do not merge.
        """
        mine = {one.process: one for one in candidates if not one.is_in(self.domain)}
        young = [process.pid for process, one in mine.items() if one.age() < YOUNG_SECONDS]
        old = [one for one in mine if one.pid not in young and one.pid != self._own]
        for process, merging in self._judge(old, closely=closely, asked=asked):
            who = mine[process]
            known = self._known.get(process) is not None
            if known or ((merging or asked) and not who.descends_from(self._own)):
                self._known.note(who, time.monotonic(), merging=merging)
        return young

    def _judge(
        self, processes: Iterable[Process], *, closely: bool, asked: bool
    ) -> Iterator[tuple[Process, bool]]:
        """Give each with whether it merges; as `_look`."""
        self._keep_verdicts()
        now, questions = time.monotonic(), []
        for process in processes:
            if asked:
                self._verdicts.accuse(process)
            verdict = self._verdicts.get(process, now)
            if verdict is not None:
                yield process, verdict
            else:
                known = self._known.get(process) is not None
                questions.append(Question(process, closely or known))
        for question, answer in self._patience.read_all(questions):
            process = question.process
            if answer is not None:
                yield process, answer.merging
            elif (before := self._known.get(process)) is not None:
                # It does not let itself be looked at: what was so goes on, and merged pages tell.
                yield process, before.merging
            else:
                yield process, closely or has_merged(process)

    def _read(self, question: Question) -> Answer:
        answer = merges(question)
        # One that took too long to be waited for must all the same not be read again and again.
        self._found.put((question.process, answer))
        return answer

    def _keep_verdicts(self) -> None:
        """Take what the readers found, and what that took them."""
        now = time.monotonic()
        with contextlib.suppress(queue.Empty):
            while True:
                process, answer = self._found.get_nowait()
                self._verdicts.keep(process, Verdict(answer.merging, answer.cpu_seconds, now))
                self._spent += answer.cpu_seconds

    def _revisit(self, now: float) -> None:
        """Look again at those that were not looked at for longest."""
        # Their children inherit it, and nobody announces those.
        self._stirred |= bool(self._known)
        some = self._known.take(AT_ONCE)
        living = {one.process: one for one in self._candidates(one.pid for one in some)}
        kept = []
        for process, known in some.items():
            if process not in living:
                self._rounds.missed |= known.merging
            elif not living[process].is_in(self.domain) and self._known.keep(known, now):
                kept.append(living[process])
        self._look(kept, closely=True, asked=False)

    def _go_on(self, now: float) -> None:
        """Go over a few more processes, if a round is under way or due."""
        if self._rounds.begin(now, under_way=bool(self._round)):
            self._managers = set()
            self._round = deque(self._whom_to_go_over())
        hurry = self._rounds.hurry
        if not self._round or (now < self._next_slice and not hurry):
            return
        began = time.monotonic()
        while self._round and not self._ended:
            self._look_once([self._round.popleft() for _ in range(min(AT_ONCE, len(self._round)))])
            if not hurry:
                break
        self._next_slice = now + SLICE_SECONDS
        if not self._round:
            self._rounds.end(now + time.monotonic() - began)

    def _whom_to_go_over(self) -> list[int]:
        listing = set(pids())
        new = self._arrivals.compare(listing)
        if self._rounds.hurry:
            return sorted(listing)
        mine = self._enrolled_pids()
        # Who is new may be whom the kernel has just told of, and the last slice is seconds away.
        rest = self._arrivals.wait(sorted(new - mine), closely=self._stirred)
        return rest + sorted(listing - new - mine)

    def _enrolled_pids(self) -> set[int]:
        """Most processes of a full node, for one read for each of their containers."""
        return {pid for path in self.enrolled & self.domain for pid in self._members(path)}

    def _tell(self) -> None:
        if not self._rounds.done:
            return
        managers = frozenset(self._managers)
        if self._told is not None and (self._round or self._arrivals):
            managers |= self._told.managers
        seen = ForeignSeen(tuple(self._known.merging()), managers, self._rounds.done)
        if seen != self._told:
            self._told = seen
            self._news.put(seen)
