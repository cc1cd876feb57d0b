"""Follows containers: who is to merge, and who no longer; `enrolling` and `releasing` do it."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from ksm_operator.agent.admission import NO_HEADROOM, may_join
from ksm_operator.agent.cgroups import living_in, processes_in
from ksm_operator.agent.consent import Consent
from ksm_operator.agent.enrolling import Enrolling
from ksm_operator.agent.huge_pages import HugePages
from ksm_operator.agent.record import adopt_all
from ksm_operator.agent.releasing import FAILED, Releasing
from ksm_operator.agent.seen import Seen
from ksm_operator.agent.state import Container
from ksm_operator.agent.verification import Verification
from ksm_operator.agent.withdrawal import Withdrawal
from ksm_operator.kernel import Process, SkipReason, is_alive

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable, Mapping

    from ksm_operator.agent.host import Host
    from ksm_operator.agent.metrics import Metrics
    from ksm_operator.agent.releasing import Left
    from ksm_operator.agent.state import State

log = logging.getLogger(__name__)


class Enrolment:
    """Has containers attended to, and keeps the record of them.

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
        self._enrolling = Enrolling(host, metrics, self.huge_pages, self.consent)
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
        intents = self._enrolling.prepare((*reversed(new), *grown), container, seen, fresh=fresh)
        # On record before the first of them is done.
        for intent in intents:
            container.put(intent.process, intent.marks)
        if intents:
            self._save()
        done = self._enrolling.carry_out(intents, container, seen, fresh=fresh)
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

    def _is_kept_out(self, path: str, new: Iterable[Process], seen: Seen) -> bool:
        """Whether a container has no room to merge in, for now."""
        if may_join(self._host.hierarchy, path):
            return False
        for process in new:
            seen.skip(process, NO_HEADROOM)
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


def _nobody_was_asked(container: Container, seen: Seen, new: Iterable[Process]) -> bool:
    """True if each process was refused before it could make the call."""
    if container.own or container.enrolled:
        return False
    return all(seen.skipped.get(one, FAILED) != FAILED for one in new)
