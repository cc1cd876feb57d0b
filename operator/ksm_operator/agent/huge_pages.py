"""Whether a process that lives in huge pages is enrolled, which splits them; docs/design says how.

`Auto` asks what sharing would give, of all such processes of the domain at once, since they may pay
for each other. That is read from their memory in a thread, slowly; until it is known they wait.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ksm_operator.agent.duty import Abandoned, Duty
from ksm_operator.agent.huge_growth import LEAST_BYTES, HugeGrowth
from ksm_operator.kernel import (
    AlreadyMergeable,
    Intent,
    KernelError,
    Postponed,
    Process,
    Refused,
    SkipReason,
    is_alive,
    page_size,
    prepare,
    read_ksm_stat,
    read_program,
)
from ksm_operator.kernel.enrol import NOTHING_TO_MARK
from ksm_operator.kernel.huge_pages import WORTH_SHARE, Look, Worth, read_huge_pages
from ksm_operator.kernel.memory_lock import cpu_seconds, must_not_hang

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from ksm_operator.agent.state import Container
    from ksm_operator.kernel import KernelFeatures, Marks

log = logging.getLogger(__name__)

AUTO: Final = "Auto"
PRESERVE: Final = "Preserve"
SPLIT: Final = "Split"

CPU_SHARE: Final = 0.05
"""Of one core, while a look is under way: 1 GiB takes about half a minute."""
AVERAGE_SHARE: Final = 0.02
"""Of one core, over all looks: where containers come and go all the time they wait for longer."""
SAMPLE_PAGES: Final = 1 << 14
"""Kept of all processes together, which takes 8 MiB while they are compared."""
SETTLING_SECONDS: Final = 2.0
"""From the first one that waits to the look: replicas come together, and pay for each other."""
FIRST_PAUSE: Final = 30.0
LONGEST_PAUSE: Final = 14_400.0
"""Seconds until one that did not pay is looked at again: twice as long each time. The first look
comes so early that its memory, or that of a replica beside it, may not be what it will be."""
GROWN: Final = 2
"""With so many times the memory that was looked at, another answer may be true."""
AGAIN_SECONDS: Final = 2.0
"""Between two looks at who has come to live in huge pages, until there is an answer."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look said of a process.

    Attributes:
        pays: sharing is worth its huge pages.
        program: which program it ran; see `read_program`.
        anonymous_bytes: its anonymous memory when it came to wait for the look.
        again_at: monotonic time from which it is looked at again, if it does not pay.
        pause: seconds that were waited for that.
    """

    pays: bool
    program: int
    anonymous_bytes: int
    again_at: float
    pause: float


def pause_after(cpu_seconds: float) -> float:
    """Seconds from one look to the next, if it took so much CPU. Pure."""
    return cpu_seconds / AVERAGE_SHARE


def is_outdated(verdict: Verdict, program: int, anonymous_bytes: int) -> bool:
    """Whether a process has changed so much that it has to be looked at anew. Pure."""
    if verdict.program != program:
        return True
    return not verdict.pays and anonymous_bytes > GROWN * verdict.anonymous_bytes


def next_verdict(
    before: Verdict | None, *, pays: bool, program: int, anonymous_bytes: int, now: float
) -> Verdict:
    """What holds from now on, and until when. Pure."""
    if before is None or before.pays or is_outdated(before, program, anonymous_bytes):
        pause = FIRST_PAUSE
    else:
        pause = min(LONGEST_PAUSE, 2 * before.pause)
    return Verdict(pays, program, anonymous_bytes, now + pause, pause)


@dataclass(frozen=True, slots=True)
class Asked:
    """One that waits for a look: which program it runs and how much memory it has."""

    program: int
    anonymous_bytes: int


class HugePages:
    """Decides for one node; all methods are called by the main loop.

    Attributes:
        how: `Auto`, `Preserve` or `Split`.
        answered: looks that have ended.
        is_new: the rule is another one since somebody attended to those it keeps out.
    """

    def __init__(self) -> None:
        """Know nothing of anybody."""
        self.how = AUTO
        self.answered = 0
        self.is_new = False
        self._growth = HugeGrowth()
        self._waiting: dict[Process, Asked] = {}
        self._waiting_since = 0.0
        self._next_look = 0.0
        self._verdicts: dict[Process, Verdict] = {}
        self._kept_out: set[Process] = set()
        self._grown: set[Process] = set()
        self._next_try = 0.0
        self._answers: queue.SimpleQueue[Mapping[Process, Worth | KernelError]] = (
            queue.SimpleQueue()
        )
        self._asked: dict[Process, Asked] = {}
        self._thread: threading.Thread | None = None

    def obey(self, how: str) -> None:
        """Decide by this rule from now on."""
        if how == self.how:
            return
        self.how = how
        self.is_new = True
        self._waiting.clear()
        self._asked = {}
        self._verdicts.clear()
        self._grown.clear()
        self._growth.forget()

    def why_not(self, process: Process, anonymous_bytes: int) -> SkipReason | None:
        """Why a process is not enrolled as a whole for now; None if it may be.

        Args:
            process: who; one that nothing else excludes.
            anonymous_bytes: its anonymous memory.

        Raises:
            ProcessGone: it exited.
            KernelError: no right to look.
        """
        if self.how == SPLIT or anonymous_bytes < LEAST_BYTES or not read_huge_pages(process):
            self._forget(process)
            return None
        if self.how == AUTO:
            asked = Asked(read_program(process), anonymous_bytes)
            verdict = self._verdicts.get(process)
            if verdict is None or is_outdated(verdict, asked.program, anonymous_bytes):
                self._wait(process, asked)
            elif verdict.pays:
                return None
        return SkipReason.HUGE_PAGES

    def why_no_longer(self, process: Process, anonymous_bytes: int) -> SkipReason | None:
        """Why one that is enrolled as a whole must be let go; None if it may stay.

        Costs nothing unless it was seen to have come to live in huge pages. One that merges enough
        already has given its answer.

        Raises:
            As `why_not`.
        """
        if process not in self._grown:
            return None
        huge = read_huge_pages(process)
        merged = (read_ksm_stat(process).merging_pages or 0) * page_size()
        pays = self.how == AUTO and merged >= WORTH_SHARE * huge
        if not pays and self.why_not(process, anonymous_bytes) is not None:
            return SkipReason.HUGE_PAGES
        self._grown.discard(process)
        return None

    def let_go(self, process: Process) -> None:
        """Ask no more about one that is being released."""
        self._grown.discard(process)

    def prepare(
        self,
        process: Process,
        features: KernelFeatures,
        before: Marks | None,
        anonymous_bytes: int,
        *,
        asked: bool = False,
    ) -> Intent | AlreadyMergeable:
        """What is to be done to enrol a process; see `prepare` of the kernel layer.

        By ranges, those with huge pages are left out unless they may be split.

        Args:
            process: who.
            features: what the kernel can.
            before: what is on record of it.
            anonymous_bytes: its anonymous memory.
            asked: its pod asks for merging.

        Raises:
            Refused: it lives in huge pages, and would be enrolled as a whole.
            As the kernel layer's.
        """
        try:
            prepared = prepare(
                process, features, before, split_huge_pages=self.may_split(process), asked=asked
            )
        except Postponed as error:
            if error.reason == NOTHING_TO_MARK:  # all of it may be in huge pages
                self.why_not(process, anonymous_bytes)
            raise
        if isinstance(prepared, Intent):
            reason = self.why_not(process, anonymous_bytes)
            if reason is not None and prepared.marks.method == "Prctl":
                raise Refused(process.pid, reason)
        return prepared

    def let_in(self, processes: Iterable[Process]) -> bool:
        """Whether one of those enrolled just now waited for a look before.

        It has all of its memory already, which ksmd has never gone over.
        """
        came = self._kept_out.intersection(processes) - self._waiting.keys() - self._asked.keys()
        self._kept_out -= came
        return bool(came)

    def may_split(self, process: Process) -> bool:
        """Whether ranges with huge pages are marked, where it is enrolled by ranges."""
        verdict = self._verdicts.get(process)
        return self.how == SPLIT or (verdict is not None and verdict.pays)

    def go_on(self, containers: Collection[Container]) -> set[Process]:
        """Begin what is due in threads, and take in what they found.

        Args:
            containers: those with enrolled processes.

        Returns:
            Those to be attended to: there is an answer, or they must be let go.
        """

        def enrolled() -> set[Process]:
            # By ranges, those that got huge pages later were not marked.
            return {
                process
                for one in containers
                for process in one.enrolled
                if not one.is_by_ranges(process)
            }

        changed: set[Process] = set()
        if self.how == SPLIT:
            return changed
        now = time.monotonic()
        while not self._answers.empty():
            changed |= self._take_in(self._answers.get(), now)
        self._grown |= {one for one in self._growth.go_on(enrolled) if not self._pays_by_look(one)}
        if self._grown and now >= self._next_try:
            self._next_try = now + AGAIN_SECONDS
            self._grown = {one for one in self._grown if is_alive(one)} & set(enrolled())
            changed |= self._grown
        if self._is_due(now):
            self._begin([process for one in containers for process in one.enrolled | one.own])
        return changed

    def _pays_by_look(self, process: Process) -> bool:
        verdict = self._verdicts.get(process)
        return verdict is not None and verdict.pays

    def _forget(self, process: Process) -> None:
        self._waiting.pop(process, None)
        self._verdicts.pop(process, None)

    def _wait(self, process: Process, asked: Asked) -> None:
        if process in self._asked:
            return  # it is being looked at
        if not self._waiting:
            self._waiting_since = time.monotonic()
        self._waiting[process] = asked
        self._kept_out.add(process)

    def _is_due(self, now: float) -> bool:
        if self.how != AUTO or (self._thread is not None and self._thread.is_alive()):
            return False
        if now < self._next_look:
            return False
        if self._waiting:
            return now - self._waiting_since >= SETTLING_SECONDS
        return any(not one.pays and now >= one.again_at for one in self._verdicts.values())

    def _begin(self, partners: list[Process]) -> None:
        """Look at all who wait, and at those who did not pay: somebody may have come for them."""
        self._verdicts = {one: told for one, told in self._verdicts.items() if is_alive(one)}
        self._kept_out = set(filter(is_alive, self._kept_out))
        self._asked = {
            one: Asked(told.program, told.anonymous_bytes)
            for one, told in self._verdicts.items()
            if not told.pays
        } | self._waiting
        self._waiting = {}
        self._thread = threading.Thread(
            target=self._look,
            args=(list(self._asked), partners),
            name="look at huge pages",
            daemon=True,
        )
        self._thread.start()

    def _look(self, candidates: Collection[Process], partners: Collection[Process]) -> None:
        must_not_hang()
        began = cpu_seconds()
        duty = Duty(lambda: CPU_SHARE, lambda: self.how == AUTO)
        found: Mapping[Process, Worth | KernelError] = {}
        try:
            found = Look(most_pages=SAMPLE_PAGES, pause=duty).worth_of(candidates, lambda: partners)
        except Abandoned:
            return
        except (KernelError, OSError, ValueError) as error:
            log.warning("huge pages not looked at", extra={"error": str(error)})
        cost = cpu_seconds() - began
        self._next_look = time.monotonic() + pause_after(cost)
        log.info(
            "looked at huge pages",
            extra={
                "processes": len(found),
                "pay": sum(1 for one in found.values() if isinstance(one, Worth) and one.pays),
                "cpuSeconds": round(cost, 2),
            },
        )
        self._answers.put(found)

    def _take_in(self, found: Mapping[Process, Worth | KernelError], now: float) -> set[Process]:
        """Put the answers on record; return whom they concern.

        Those who do not pay too: they may have become another program under the look, or not live
        in huge pages any more.
        """
        self.answered += 1
        for process, asked in self._asked.items():
            worth = found.get(process)
            if isinstance(worth, KernelError):
                extra = {"pid": process.pid, "error": str(worth)}
                log.warning("whether its huge pages are worth it cannot be told", extra=extra)
            before, pays = self._verdicts.get(process), isinstance(worth, Worth) and worth.pays
            self._verdicts[process] = next_verdict(
                before,
                pays=pays,
                program=asked.program,
                anonymous_bytes=asked.anonymous_bytes,
                now=now,
            )
        asked_for, self._asked = set(self._asked), {}
        return asked_for
