"""Enrols the processes of containers, keeping the record straight; `releasing` undoes it."""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from ksm_operator.agent.admission import NO_HEADROOM, may_join
from ksm_operator.agent.cgroups import living_in, processes_in
from ksm_operator.agent.consent import Consent
from ksm_operator.agent.huge_pages import HugePages
from ksm_operator.agent.record import adopt, adopt_all, keep_what_holds
from ksm_operator.agent.releasing import FAILED, Releasing
from ksm_operator.agent.seen import Seen
from ksm_operator.agent.state import Container
from ksm_operator.agent.verification import Verification, look_at
from ksm_operator.agent.withdrawal import Withdrawal
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
    SkipReason,
    carry_out_many,
    is_alive,
    read_status,
    share_memory,
)
from ksm_operator.kernel.enrol import NOTHING_TO_MARK

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence

    from ksm_operator.agent.host import Host
    from ksm_operator.agent.metrics import Metrics
    from ksm_operator.agent.releasing import Left
    from ksm_operator.agent.state import State

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


class Enrolment:
    """Changes processes, and the state with them.

    Attributes:
        state: what is remembered; replaced as a whole when everything was given back.
        seen: what is known of containers beyond the state, by cgroup path.
        begun: how often memory came that ksmd has never gone over: with a container, or with a
            process that huge pages kept out before.
        consent: whose pods ask for merging.
        huge_pages: decides on who lives in huge pages.
        withdrawal: lets containers go for which merging does not pay.
    """

    def __init__(
        self, host: Host, state: State, save: Callable[[], None], metrics: Metrics
    ) -> None:
        self.state = state
        self.seen: dict[str, Seen] = {}
        self.begun = 0
        self.consent = Consent(state)
        self.huge_pages = HugePages()
        self._host = host
        self._save = save
        self._metrics = metrics
        self._releasing = Releasing(host, state, save, metrics)
        self.withdrawal = Withdrawal(host, state, self._releasing)
        self._verification = Verification(host, self._releasing, self.huge_pages, self.consent)

    @property
    def left(self) -> dict[Process, Left]:
        """Processes whose release did not succeed yet."""
        return self._releasing.left

    def release(
        self,
        paths: Iterable[str],
        reserve_percent: int,
        only: Mapping[str, Collection[Process]] | None = None,
    ) -> Generator[float, None, None]:
        """Release what we enrolled in containers; see `Releasing.release`."""
        return self._releasing.release(paths, reserve_percent, only or {})

    def outgoing(self) -> dict[str, set[Process]]:
        """Return who has to go though his container stays, by the container's path."""
        self._releasing.forget_dismissed()
        going = {path: set(them) for path, them in self._releasing.dismissed.items()}
        for path, them in self.consent.unwanted.items():
            going[path] = going.get(path, set()) | them
        return going

    def processes(self, path: str) -> list[Process]:
        """Return who lives in a container now, the oldest first."""
        found = living_in(self._host.hierarchy, path)
        if found:
            self.seen.setdefault(path, Seen()).first = found[0]
        return found

    def oldest(self, path: str) -> Process | None:
        """Return the oldest process seen in a container; None if nothing runs in it."""
        if path not in self.seen or self.seen[path].first is None:
            self.processes(path)
        return self.seen[path].first if path in self.seen else None

    def has_news(self, path: str) -> bool:
        """Tell whether a pid in a container is neither on record nor left alone, or all are to go.

        Cheap: one read for each of its cgroups.
        """
        known = set(self.seen[path].skipped) if path in self.seen else set()
        container = self.state.containers.get(path)
        if container is not None:
            if container.enrolled and self.withdrawal.keeps_out(path):
                return True
            known |= container.enrolled | container.own
        return not {one.pid for one in known}.issuperset(processes_in(self._host.hierarchy, path))

    def attend(self, path: str, pod_uid: str) -> bool:
        """Enrol what lives in a container and is not enrolled yet, and follow what has grown.

        Returns:
            Whether some process is to be tried again.
        """
        container = self.state.containers.get(path)
        # Whoever had ended before the list was made has no child that is missing in it.
        ended = [one for one in container.marks if not is_alive(one)] if container else []
        now = self.processes(path)
        seen = self.seen.setdefault(path, Seen())
        seen.forget_but(now)
        seen.note_asked(self.consent.asks(path))
        if self.withdrawal.keeps_out(path):
            return not self.withdrawal.let_go(path, now, seen)
        grown: list[Process] = []
        if container is not None:
            adopt_all((one for one in now if one not in seen.skipped), container)
            _forget_dead(container, ended, now)
            grown = self._verification.verify(container, seen)
        known = container.enrolled | container.own if container else set()
        new = [one for one in now if one not in known and one not in seen.skipped]
        nothing = not new and not grown
        if nothing or (container is None and self._is_kept_out(path, new, seen)):
            return False
        fresh = container is None
        if container is None:
            container = self.state.containers[path] = Container(pod_uid, path)
        # The youngest first: of a runtime's processes it is the one that becomes the program, and
        # the others end in a moment.
        intents = self._prepare_all((*reversed(new), *grown), container, seen, fresh=fresh)
        # On record before the first of them is done.
        for intent in intents:
            container.put(intent.process, intent.marks)
        if intents:
            self._save()
        done = self._carry_out_all(intents, container, seen, fresh=fresh)
        if fresh and _nobody_was_asked(container, seen, new):
            # Nobody can have inherited it. A record of anything else stays: a process that took the
            # call and ended may have left a child behind, which only this record tells from one
            # that was mergeable before us.
            del self.state.containers[path]
        if new or intents:
            self._save()
        if done:
            kept_out = self.huge_pages.let_in(one.process for one in done)
            self.begun += fresh or kept_out
            log.info(
                "processes enrolled",
                extra={
                    "podUID": pod_uid,
                    "cgroup": path,
                    "pids": [one.process.pid for one in done],
                },
            )
        return bool(seen.postponed)

    def _prepare_all(
        self, processes: Iterable[Process], container: Container, seen: Seen, *, fresh: bool
    ) -> list[Intent]:
        """Prepare as many as half a turn allows, so that something is carried out in the other."""
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

    def _is_kept_out(self, path: str, new: Iterable[Process], seen: Seen) -> bool:
        """Whether a container has no room to merge in, for now."""
        if may_join(self._host.hierarchy, path):
            return False
        for process in new:
            seen.skip(process, NO_HEADROOM)
        return True

    def _carry_out_all(
        self, intents: Sequence[Intent], container: Container, seen: Seen, *, fresh: bool
    ) -> list[Intent]:
        """Do what was prepared, as far as one turn goes: the loop must not stand still for it."""
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
            prepared = self.huge_pages.prepare(
                process,
                self._host.features,
                container.marks.get(process) or seen.by_ranges.get(process),
                look.anonymous_bytes,
                asked=seen.asked,
            )
            reason = self.consent.why_not(container.path, status)
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
            if isinstance(result, Postponed) and result.reason == HELPER_RESTARTED:
                # The process may be about to make the call by itself: the next look tells.
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

    def prune(self) -> None:
        """Forget containers in which nobody lives any more, and what was seen in lost ones."""
        gone = []
        for path, container in self.state.containers.items():
            known = {one.pid for one in container.enrolled | container.own}
            if known and known.issubset(processes_in(self._host.hierarchy, path)):
                continue  # a pid that is another process now is noticed at the next look
            _forget_dead(container, ())
            if not container.enrolled and not container.own and not self.processes(path):
                gone.append(path)
        for path in gone:
            del self.state.containers[path]
        self.seen = {
            path: seen
            for path, seen in self.seen.items()
            if path in self.state.containers or self._host.hierarchy.path(path).is_dir()
        }
        self._releasing.forget_dead()
        if gone:
            self._save()

    def retry_skipped(self) -> None:
        """Look again at processes that were left alone: a program may have changed since."""
        for seen in self.seen.values():
            seen.skipped.clear()

    def follow_huge_pages(self) -> list[str]:
        """Go on finding out whom huge pages keep out; the containers to attend to for it."""
        changed = self.huge_pages.go_on(self.state.containers.values())
        is_new, self.huge_pages.is_new = self.huge_pages.is_new, False
        found = []
        for path, seen in self.seen.items() if changed or is_new else ():
            container = self.state.containers.get(path)
            here = changed & {*seen.skipped, *(container.enrolled if container else ())}
            if is_new:
                here |= {one for one, why in seen.skipped.items() if why == SkipReason.HUGE_PAGES}
            for process in here:
                seen.skipped.pop(process, None)
                seen.looks.pop(process, None)
            if here:
                found.append(path)
        return found

    def follow_consent(self) -> list[str]:
        """Return the containers whose pods ask for merging since the last look, or no longer do."""
        return [path for path, seen in self.seen.items() if seen.asked != self.consent.asks(path)]

    def enrolled_count(self) -> int:
        """Return how many processes are enrolled."""
        return sum(len(container.enrolled) for container in self.state.containers.values())

    def skipped_processes(self, paths: Mapping[str, object]) -> Counter[str]:
        """Count processes in these containers that are left alone, by reason."""
        reasons: Counter[str] = Counter()
        for path in paths:
            seen = self.seen.get(path)
            if seen is not None:
                reasons.update(seen.skipped.values())
                reasons.update(seen.postponed.values())
            container = self.state.containers.get(path)
            if container is not None and container.own:
                reasons["AlreadyMergeable"] += len(container.own)
        return reasons


def _forget_dead(
    container: Container, ended: Iterable[Process], here: Iterable[Process] = ()
) -> None:
    """Forget who has ended; of their marks those alone whose children have been looked for.

    Args:
        container: the record.
        ended: whose children have been.
        here: who was found alive just now, and is not asked for again.
    """
    alive = set(here)
    container.enrolled = {one for one in container.enrolled if one in alive or is_alive(one)}
    container.own = {one for one in container.own if one in alive or is_alive(one)}
    for process in ended:
        container.marks.pop(process, None)


def _is_done(process: Process, done: Iterable[Intent]) -> bool:
    """Whether one that has begun to merge since it was prepared does so by what was just done."""
    return any(share_memory(process, intent.process) for intent in done)


def _nobody_was_asked(container: Container, seen: Seen, new: Iterable[Process]) -> bool:
    """True if each process was refused before it could make the call."""
    if container.own or container.enrolled:
        return False
    return all(seen.skipped.get(one, FAILED) != FAILED for one in new)
