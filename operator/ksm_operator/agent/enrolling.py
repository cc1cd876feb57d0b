"""Makes processes of a container merge, a turn's worth at a time; `releasing` undoes it."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from ksm_operator.agent.record import adopt, keep_what_holds
from ksm_operator.agent.releasing import FAILED
from ksm_operator.agent.verification import look_at
from ksm_operator.kernel import (
    Advised,
    AlreadyMergeable,
    Enrolled,
    Intent,
    KernelError,
    Postponed,
    Process,
    ProcessGone,
    Refused,
    carry_out_many,
    read_status,
    share_memory,
)
from ksm_operator.kernel.enrol import NOTHING_TO_MARK
from ksm_operator.kernel.memory_lock import MEMORY_BUSY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ksm_operator.agent.consent import Consent
    from ksm_operator.agent.host import Host
    from ksm_operator.agent.huge_pages import HugePages
    from ksm_operator.agent.metrics import Metrics
    from ksm_operator.agent.seen import Seen
    from ksm_operator.agent.state import Container

log = logging.getLogger(__name__)

TURN_SECONDS: Final = 2.0
"""Work on one container, after which the others have their turn: a thread that gets no processor
may keep us waiting for seconds, and a container may have hundreds of them."""
AT_ONCE: Final = 8
"""Most processes handed to the helper together; between two such lots the turn may end."""
QUICK_SECONDS: Final = 0.02
"""For one process: those after it are handed over in larger lots."""
LATER: Final = "Later"
HELPER_RESTARTED: Final = "HelperRestarted"
"""Why a process was put off whose visitor died; see `Helper.call`."""


class Enrolling:
    """Puts on record what becomes of each process, and notes why nothing does."""

    def __init__(
        self, host: Host, metrics: Metrics, huge_pages: HugePages, consent: Consent
    ) -> None:
        """Be ready.

        Args:
            host: the machine.
            metrics: what is counted.
            huge_pages: decides on who lives in huge pages.
            consent: whose pods ask for merging.
        """
        self._host = host
        self._metrics = metrics
        self._huge_pages = huge_pages
        self._consent = consent

    def prepare(
        self, processes: Iterable[Process], container: Container, seen: Seen, *, fresh: bool
    ) -> list[Intent]:
        """Find out what is to be done with processes; changes nothing.

        As many as half a turn allows, so that something is carried out in the other half.
        """
        ends, intents = time.monotonic() + TURN_SECONDS / 2, []
        for process in processes:
            if time.monotonic() > ends:
                if process not in container.enrolled:
                    seen.postponed[process] = LATER
                continue
            intent = self._prepare(process, container, seen, fresh=fresh)
            if intent is not None:
                intents.append(intent)
        return intents

    def carry_out(
        self, intents: Sequence[Intent], container: Container, seen: Seen, *, fresh: bool
    ) -> list[Intent]:
        """Do what was prepared and put on record, as far as one turn goes.

        Returns:
            What was done, so that its process merges because of us.
        """
        ends = time.monotonic() + TURN_SECONDS / 2
        done: list[Intent] = []
        left, lot = list(intents), 1
        while left:
            some, left, started = left[:lot], left[lot:], time.monotonic()
            if started > ends:
                for intent in (*some, *left):
                    keep_what_holds(intent.process, container)
                    seen.postponed[intent.process] = LATER
                break
            results = carry_out_many(some, self._host.tracer)
            seconds = (time.monotonic() - started) / len(some)
            # One that is slow is waited for by the loop, so the next may not be many.
            lot = min(2 * lot, AT_ONCE) if seconds < QUICK_SECONDS else 1
            for intent, result in zip(some, results, strict=True):
                if isinstance(result, AlreadyMergeable) and _is_done(intent.process, done):
                    continue
                if self._is_enrolled(intent.process, result, container, seen, fresh=fresh):
                    self._metrics.enrol_seconds.observe(seconds)
                    done.append(intent)
        return done

    def _prepare(
        self, process: Process, container: Container, seen: Seen, *, fresh: bool
    ) -> Intent | None:
        """Find out what is to be done with a process, and note why nothing is."""
        on_record = process in container.enrolled
        try:
            status = read_status(process.pid)
            look = look_at(process, status)
            prepared = self._huge_pages.prepare(
                process,
                self._host.features,
                container.marks.get(process) or seen.by_ranges.get(process),
                look.anonymous_bytes,
                asked=seen.asked,
            )
            reason = self._consent.why_not(container.path, status)
            if reason is not None and isinstance(prepared, Intent):
                raise Refused(process.pid, reason)
        except ProcessGone:
            container.enrolled.discard(process)
            return None
        except KernelError as error:
            if not on_record:
                self._put_off(process, error, seen)
            elif isinstance(error, Postponed) and error.reason == NOTHING_TO_MARK:
                seen.looks[process] = look
            return None
        if isinstance(prepared, AlreadyMergeable):
            self._found_merging(process, container, fresh=fresh)
            return None
        seen.looks[process] = look
        seen.note_age(process, process.age())
        return prepared

    def _put_off(self, process: Process, error: KernelError, seen: Seen) -> None:
        if isinstance(error, Refused):
            seen.skip(process, str(error.reason))
        elif isinstance(error, Postponed) and error.reason == NOTHING_TO_MARK:
            seen.skip(process, error.reason)
        elif isinstance(error, Postponed):
            seen.postponed[process] = error.reason
            log.debug("process postponed", extra={"pid": process.pid, "reason": error.reason})
        else:
            self._metrics.errors.labels("enrol").inc()
            seen.skipped[process] = FAILED
            log.warning("process not enrolled", extra={"pid": process.pid, "error": str(error)})

    def _found_merging(self, process: Process, container: Container, *, fresh: bool) -> None:
        """Put one on record that merges as a whole, whoever asked for that."""
        container.drop(process)
        try:
            if not fresh and adopt(process, container):
                return
        except KernelError:
            return
        container.own.add(process)
        log.info("process was mergeable before", extra={"pid": process.pid})

    def _is_enrolled(
        self,
        process: Process,
        result: Enrolled | Advised | AlreadyMergeable | KernelError,
        container: Container,
        seen: Seen,
        *,
        fresh: bool,
    ) -> bool:
        """Put on record what became of it; tells whether it merges because of us."""
        if isinstance(result, KernelError):
            seen.looks.pop(process, None)
            if isinstance(result, Postponed) and result.reason in (HELPER_RESTARTED, MEMORY_BUSY):
                # It may be about to make the call, or have made it: the next look tells.
                self._put_off(process, result, seen)
                return False
            # The call may have been made before something came between.
            if keep_what_holds(process, container):
                return True
            if not isinstance(result, ProcessGone):
                self._put_off(process, result, seen)
            return False
        if isinstance(result, AlreadyMergeable):
            self._found_merging(process, container, fresh=fresh)
            return False
        if isinstance(result, Advised):
            container.put(process, result.marks)
        return True


def _is_done(process: Process, done: Iterable[Intent]) -> bool:
    """Whether one that has begun to merge since it was prepared does so by what was just done."""
    return any(share_memory(process, intent.process) for intent in done)
