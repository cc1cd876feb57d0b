"""Does what the KSMNode says to the machine: accept, enrol, pause, hand over, give back.

Every method does a bounded piece of work and returns, so that the loop goes on ticking.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from ksm_operator.agent.enrolment import Enrolment
from ksm_operator.agent.exec_trial import ExecTrial
from ksm_operator.agent.governor import Governor
from ksm_operator.agent.knobs import Knobs, Troubles
from ksm_operator.agent.observation import Observation
from ksm_operator.agent.releasing import pause_before_release
from ksm_operator.agent.settings import cleanup_values, optional_values
from ksm_operator.agent.state import State
from ksm_operator.agent.wire import NodePolicy
from ksm_operator.kernel import SysfsError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from ksm_operator.agent.host import Host
    from ksm_operator.agent.metrics import Metrics
    from ksm_operator.agent.wire import Ksmd, NodeSpec, Owner

log = logging.getLogger(__name__)

SLICE_SECONDS: Final = 0.2
"""Work done in one tick before other things get their turn."""
RESTORE_PAUSE: Final = 5.0
"""Seconds until values of ksmd that could not be restored are tried again."""
CLEANUP_SECONDS: Final = 30.0
"""How long a clean-up scan may take."""
CLEANUP_LEAST: Final = 1.0
"""ksmd forgets a process within one scan, and does not count a scan after which none is left."""
CLEANUP_TICK: Final = 0.1
OPTIONAL: Final = (
    "merge_across_nodes",
    "max_page_sharing",
    "use_zero_pages",
    "smart_scan",
    "advisor_max_cpu",
)
"""Files that go back to what they held as soon as the policy does not set them any more."""
BUSY_WAIT: Final = 0.005
IDLE_GRACE: Final = 10.0
"""Seconds that ksmd goes on after the last process went, to drop its records of it."""
ENROL_DELAYS: Final = (0.0, 0.01, 0.03, 0.06, 0.1, 0.3, 0.5, 1.0, 3.0, 5.0)
"""Seconds between looks at a container that is new to us: its runtime fills it, forks and execs."""
POSTPONED_DELAY: Final = 10.0
ENTERED_DELAY: Final = 1.0
"""Seconds until a process that was put into a container is looked at: a probe has ended by then."""


class Obedience:
    """The agent's hands.

    Attributes:
        state: what is remembered.
        enrolment: who is enrolled.
        observation: what would be saved, while nothing is merged.
        knobs: ksmd's files.
        external: whether somebody else manages ksmd here.
        troubles: what could not be written lately.
        unrestored: files left alone by the last restore.
    """

    def __init__(
        self,
        host: Host,
        state: State,
        save: Callable[[], None],
        metrics: Metrics,
        stopped: Callable[[], bool],
    ) -> None:
        self.state = state
        self.enrolment = Enrolment(host, state, save, metrics)
        self.observation = Observation(host)
        self.knobs = Knobs(host.sysfs, state, save)
        self.external = False
        self.troubles = Troubles()
        self.unrestored: tuple[str, ...] = ()
        self._host = host
        self._exec_trial = ExecTrial(host)
        self._save = save
        self._metrics = metrics
        self._stopped = stopped
        self._edition: tuple[str, int] | None = None
        self._optional_written = False
        self._attempts: dict[str, tuple[int, float]] = {}
        self._glances: set[str] = set()
        self._unsettled: set[str] = set()
        self._leaving: frozenset[str] = frozenset()
        self._releasing: Generator[float, None, None] | None = None
        self._next_release = 0.0
        self._cleanup: tuple[int, float] | None = None
        self._governor = Governor(host, self.knobs)
        self._idle_since: float | None = None

    def resume(self, owner: Owner | None) -> None:
        """Go on with what an earlier agent left.

        Args:
            owner: the one that it obeyed last; its policy may have been edited since.
        """
        self.enrolment.prune()
        self.knobs.adopt()
        if owner is not None:
            self._edition = (owner.uid, owner.generation)

    def accept(self, owner: Owner, ksmd: Ksmd) -> bool:
        """Take the node for an owner, before anything is enrolled for it.

        Returns:
            Whether the node is ours to change; `external` and `troubles` say why not.
        """
        if not self.state.touched:
            self.external = self.knobs.read().run == 1
            if self.external:
                return False
            self.unrestored = ()
            self.state.owner = owner.uid
            self._save()
            log.info("node taken", extra={"policy": owner.name, "uid": owner.uid})
        self.external = False
        self._cleanup = None
        if not self.state.containers and self.state.owner != owner.uid:
            log.info("owner changed", extra={"policy": owner.name, "uid": owner.uid})
            self.state.owner = owner.uid
            self._save()
        if self.state.owner != owner.uid:
            return False
        edition = (owner.uid, owner.generation)
        if edition != self._edition:
            if self._edition is not None:
                self.knobs.reclaim()
            self._edition = edition
            self._governor.forget()
            self._optional_written = False
        if not self._optional_written:
            self._optional_written = True
            self.apply_optional(ksmd)
        return not self.troubles.read_only

    def apply_optional(self, ksmd: Ksmd) -> None:
        """Write the values that the policy sets, and put back those that it sets no more."""
        values: dict[str, int | str] = {
            name: saved.before
            for name, saved in self.state.baseline.files.items()
            if name in OPTIONAL
        }
        values.update(optional_values(ksmd))
        self.troubles = self.knobs.apply(values)

    def enrol(self, wanted: Iterable[str], pod_of: Callable[[str], str]) -> bool:
        """Attend to containers that are due.

        Args:
            wanted: cgroup paths of all containers to merge.
            pod_of: the pod uid of a path.

        Returns:
            Whether every one of them has been attended to at least once, and no process of them
            is about to be tried again after a first try that came at a bad moment.
        """
        wanted = list(wanted)
        now = time.monotonic()
        ends = now + SLICE_SECONDS
        for path in self._attempts.keys() - set(wanted):
            del self._attempts[path]
        for path in wanted:
            self._attempts.setdefault(path, (0, now))
        for path in self.enrolment.follow_huge_pages():
            if path in self._attempts:
                self._attempts[path] = (self._attempts[path][0], now)
                self._glances.discard(path)
        for path, (index, due) in sorted(self._attempts.items(), key=lambda one: one[1][1]):
            now = time.monotonic()
            if due > now or now > ends or self._stopped():
                break
            glance = path in self._glances
            self._glances.discard(path)
            postponed = (
                not glance or self.enrolment.has_newcomers(path)
            ) and self.enrolment.attend(path, pod_of(path))
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
        self._unsettled &= self._attempts.keys()
        return not self._unsettled and all(index > 0 for index, _ in self._attempts.values())

    def glance(self, path: str) -> None:
        """See soon whether a container has a new process (`kubectl exec`)."""
        looks, due = self._attempts.get(path, (0, 0.0))
        soon = time.monotonic() + ENTERED_DELAY
        if due > soon:
            self._attempts[path] = (looks, soon)
            self._glances.add(path)

    def look_again(self) -> None:
        """Attend to every container once more."""
        now = time.monotonic()
        if self.state.containers:
            self._exec_trial.go_on()
        self.enrolment.retry_skipped()
        self._glances.clear()
        if self._governor.scanning is not None:
            self.enrolment.withdrawal.measure(self.knobs.read())
        self._attempts = {path: (max(index, 1), now) for path, (index, _) in self._attempts.items()}

    def release(self, leaving: Iterable[str], reserve_percent: int) -> bool:
        """Release containers as far as there is room, for as long as a tick may take.

        Args:
            leaving: cgroup paths of containers that must be released.
            reserve_percent: share of MemTotal that must stay available.

        Returns:
            Whether none of them holds anything of ours any more.
        """
        pending = [path for path in leaving if path in self.state.containers]
        if not pending:
            self._end_release()
            return True
        if any(path in self.state.containers and path not in pending for path in self._leaving):
            self._end_release()  # some container is wanted again
        if time.monotonic() < self._next_release:
            return False
        if self._releasing is None:
            self._leaving = frozenset(pending)
            self._releasing = self.enrolment.release(pending, reserve_percent)
        ends = time.monotonic() + SLICE_SECONDS
        for wait in self._releasing:
            if self._stopped():
                self._end_release()
                return False
            now = time.monotonic()
            self._next_release = now + wait
            if wait or now > ends:
                return False
        self._end_release()
        remaining = [path for path in pending if path in self.state.containers]
        if remaining:
            now = time.monotonic()
            left = self.enrolment.left.values()
            self._next_release = now + pause_before_release(left, now)
        return not remaining

    def _end_release(self) -> None:
        if self._releasing is not None:
            self._releasing.close()
        self._releasing = None
        self._leaving = frozenset()

    def give_back(self, reserve_percent: int, foreign: Callable[[], bool]) -> bool:
        """Release everything, clean up, restore ksmd's values.

        Args:
            reserve_percent: share of MemTotal that must stay available.
            foreign: asked before a clean-up scan: whether other processes merge too, whose pages
                it may not touch.

        Returns:
            Whether the node is as it was before us.
        """
        self.external = False
        if not self.state.touched:
            return True
        self._attempts.clear()
        self._unsettled.clear()
        if not self.release(list(self.state.containers), reserve_percent):
            return False
        if time.monotonic() < self._next_release or not self._cleaned(foreign):
            return False
        try:
            self.unrestored = self.knobs.restore()
        except SysfsError as error:
            self._metrics.errors.labels("restore").inc()
            log.warning("values of ksmd not restored yet", extra={"error": str(error)})
            self._cleanup = None
            self._next_release = time.monotonic() + RESTORE_PAUSE
            return False
        log.info("node given back", extra={"leftAlone": list(self.unrestored)})
        self._reset()
        return True

    def _reset(self) -> None:
        state = self.state
        fresh = State(state.boot_id, told=state.told, generation=state.generation)
        for name in ("owner", "baseline", "containers", "run_is_ours", "yielded"):
            setattr(state, name, getattr(fresh, name))
        self._save()
        self._edition = None
        self._cleanup = None
        self.troubles = Troubles()
        self.enrolment.left.clear()

    def _cleaned(self, foreign: Callable[[], bool]) -> bool:
        """One scan that drops what ksmd still has on record: its counters are stale till then."""
        if "run" in self.state.yielded or "run" not in self.state.baseline.files:
            return True
        if self._cleanup is None and foreign():
            return True
        values = self.knobs.read()
        now = time.monotonic()
        if self._cleanup is None:
            self.troubles = self.knobs.apply(cleanup_values())
            self._cleanup = (values.full_scans or 0, now)
            return False
        scans, since = self._cleanup
        scanned = (values.full_scans or 0) > scans or now - since > CLEANUP_LEAST
        if (scanned and not values.pages_shared) or now - since > CLEANUP_SECONDS:
            log.info("cleaned up", extra={"pagesShared": values.pages_shared or 0})
            return True
        return False

    def govern(self, spec: NodeSpec | None) -> float:
        """Measure ksmd and tell it what to do until the next time.

        Returns:
            Seconds until then; infinite while there is nothing to govern.
        """
        if not self.state.baseline.files and not self.state.containers:
            return float("inf")
        if self._cleanup is not None:
            return CLEANUP_TICK
        now = time.monotonic()
        enrolled = self.enrolment.enrolled_count() > 0
        self._idle_since = None if enrolled else self._idle_since or now
        idle = self._idle_since is not None and now - self._idle_since > IDLE_GRACE
        # While processes are released ksmd goes on, and makes haste where it is waited for: before
        # 6.6 a process's own counters, which only a scan corrects, are all that says how much of it
        # is still merged.
        if spec is None or spec.desired_state == "Paused" or idle:
            self.knobs.notice()
            self._governor.forget()
            self.stop_ksmd()
            return float("inf")
        policy = spec.policy or NodePolicy()
        leaving = bool(self._leaving) or spec.desired_state in ("Released", "Observing")
        waited_for = leaving and not self._host.features.smaps_shows_merged
        hurry = waited_for or not enrolled
        troubles, pause = self._governor.step(policy.ksmd, self.enrolment.begun, hurry=hurry)
        if troubles is not None:
            self._note(troubles)
        return pause

    def _note(self, troubles: Troubles) -> None:
        if troubles.read_only or troubles.refused:
            self._metrics.errors.labels("sysfs").inc()
        pending, missing = self.troubles.pending, self.troubles.missing
        self.troubles = Troubles(pending, missing, troubles.read_only, troubles.refused)

    def stop_ksmd(self) -> None:
        """Stop scanning if it is we who started it; what is merged stays merged."""
        if "run" in self.state.baseline.files and self.knobs.read().run == 1:
            self._note(self.knobs.apply({"run": 0}))

    def patience(self) -> float:
        """Return seconds until unfinished work is worth another step."""
        if self._cleanup is not None:
            return CLEANUP_TICK
        return max(BUSY_WAIT, self._next_release - time.monotonic())

    def next_due(self) -> float:
        """Return the monotonic time at which some container is to be looked at."""
        return min((due for _, due in self._attempts.values()), default=float("inf"))
