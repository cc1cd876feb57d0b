"""Does what the KSMNode says to the machine: accept, enrol, pause, hand over, give back.

Every method does a bounded piece of work and returns, so that the loop goes on ticking.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from ksm_operator.agent import cleanup
from ksm_operator.agent.affinity import Affinity
from ksm_operator.agent.attention import Attention
from ksm_operator.agent.cleanup import Cleanup, Way
from ksm_operator.agent.debt import Debt, reckon
from ksm_operator.agent.departure import Departure
from ksm_operator.agent.enrolment import Enrolment
from ksm_operator.agent.exec_trial import ExecTrial
from ksm_operator.agent.governor import Governor
from ksm_operator.agent.guard import Guard
from ksm_operator.agent.knobs import Knobs, Troubles
from ksm_operator.agent.observation import Observation
from ksm_operator.agent.settings import optional_values
from ksm_operator.agent.state import State
from ksm_operator.agent.wire import NodePolicy
from ksm_operator.kernel import (
    HOST_KSM_ROOT,
    KernelError,
    OtherWriters,
    node_headroom,
    page_size,
    read_meminfo,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ksm_operator.agent.host import Host
    from ksm_operator.agent.metrics import Metrics
    from ksm_operator.agent.vigilance import Vigilance
    from ksm_operator.agent.wire import Ksmd, NodeSpec, Owner

log = logging.getLogger(__name__)

RESTORE_PAUSE: Final = 5.0
"""Seconds until values of ksmd that could not be restored are tried again."""
OPTIONAL: Final = (
    "merge_across_nodes",
    "max_page_sharing",
    "use_zero_pages",
    "smart_scan",
    "advisor_max_cpu",
)
"""Files that go back to what they held as soon as the policy does not set them any more."""
BUSY_WAIT: Final = 0.005
HELD_TICK: Final = 1.0
"""Between two looks at ksmd's files while it has to stand still."""
IDLE_GRACE: Final = 10.0
"""Seconds that ksmd goes on after the last process went, to drop its records of it."""
GUARD_IDLE: Final = 2.0
"""Seconds until the guard is asked again while nobody is enrolled."""
GUARD_PAUSE: Final = 0.5
"""Seconds until the guard is asked again while a release goes through everybody."""


class Obedience:
    """The agent's hands.

    Attributes:
        state: what is remembered.
        enrolment: who is enrolled.
        attention: when which container is looked at.
        observation: what would be saved, while nothing is merged.
        knobs: ksmd's files.
        manager: who else manages ksmd here and how it is handed over; empty for nobody, None where
            that is not known yet.
        held: whether ksmd has to stand still, for others who merge.
        troubles: what could not be written lately.
        unrestored: files left alone by the last restore.
        departure: who is to leave, and the release that is under way.
        guard: keeps room for what is merged.
        debt: the node's merge debt; None before the first look.
    """

    def __init__(
        self,
        host: Host,
        state: State,
        save: Callable[[], None],
        metrics: Metrics,
        stopped: Callable[[], bool],
        *,
        vigilance: Vigilance | None = None,
    ) -> None:
        self.state = state
        self.enrolment = Enrolment(host, state, save, metrics)
        self.attention = Attention(self.enrolment, stopped)
        self.observation = Observation(host)
        writers = OtherWriters(root / "run" for root in (host.sysfs.root, HOST_KSM_ROOT))
        self.knobs = Knobs(host.sysfs, state, save, writers.wrote)
        self.manager: str | None = ""
        self.troubles = Troubles()
        self._affinity = Affinity(host.ksmd, state, save)
        self.unrestored: tuple[str, ...] = ()
        self._host = host
        self._exec_trial = ExecTrial(host)
        self._save = save
        self._metrics = metrics
        self._edition: tuple[str, int] | None = None
        self._optional_written = False
        self.departure = Departure(state, self.enrolment, stopped)
        self._cleanup = Cleanup(self.knobs)
        self._way = Way(self._cleanup)
        self._governor = Governor(host, self.knobs)
        self._idle_since: float | None = None
        self.guard = Guard(host, state, metrics, vigilance)
        self.debt: Debt | None = None
        self.held = True

    def resume(self, owner: Owner | None) -> None:
        """Go on with what an earlier agent left.

        Args:
            owner: the one that it obeyed last; its policy may have been edited since.
        """
        self.enrolment.prune()
        self._affinity.adopt()
        self.knobs.adopt()
        if owner is not None:
            self._edition = (owner.uid, owner.generation)

    def accept(self, owner: Owner, ksmd: Ksmd, manager: Callable[[int], str | None]) -> bool:
        """Take the node for an owner, before anything is enrolled for it.

        Args:
            owner: the one.
            ksmd: what its policy asks of ksmd.
            manager: tells by what `run` holds who else manages ksmd here; see the attribute.

        Returns:
            Whether the node is ours to change; `manager` and `troubles` say why not.
        """
        # Until `enrol` comes to it nothing is looked at: nobody may be enrolled before.
        self.attention.pause()
        if not self.state.touched:
            self.manager = manager(self.knobs.read().run or 0)
            if self.manager != "":
                return False
            self.unrestored = ()
            self.state.owner = owner.uid
            self._save()
            log.info("node taken", extra={"policy": owner.name, "uid": owner.uid})
        self.manager = ""
        if not self._way.is_being_made:
            self._cleanup.forget()
        if not self.state.containers and self.state.owner != owner.uid:
            log.info("owner changed", extra={"policy": owner.name, "uid": owner.uid})
            self.state.owner = owner.uid
            self._save()
        if self.state.owner != owner.uid:
            return False
        edition = (owner.uid, owner.generation)
        if edition != self._edition:
            if self._edition is not None:
                self._affinity.reclaim()
                self.knobs.reclaim()
            self._edition = edition
            self._governor.forget()
            self._optional_written = False
            self._way.forget()
        if not self._optional_written:
            self._optional_written = True
            self._host.tracer.start()
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

    def make_way(self, ksmd: Ksmd, foreign: Callable[[], bool | None]) -> bool:
        """Have values that the kernel refuses while pages are shared written before anybody merges.

        Args:
            ksmd: what the policy asks of ksmd.
            foreign: as of `give_back`.

        Returns:
            Whether the first container may be enrolled.
        """
        refused, merging = bool(self.troubles.pending), bool(self.state.containers)
        if self._way.is_clear(refused=refused, merging=merging):
            return True
        if not self._way.is_being_made:
            self._exec_trial.stop()
        if not self._way.step(foreign):
            return False
        self._governor.forget()
        self.apply_optional(ksmd)
        return True

    def look_again(self) -> None:
        """Attend to containers once more; see `Attention.look_again`."""
        if self.state.containers:
            self._exec_trial.go_on()
        self.enrolment.retry_skipped()
        if self._governor.scanning is not None and self.enrolment.withdrawal.is_due():
            self.enrolment.withdrawal.measure(self.knobs.read())
        features = self._host.features
        self.attention.look_again(
            lasts=features.method == "Prctl" and features.exec_inherits is True
        )

    def give_back(self, reserve_percent: int, foreign: Callable[[], bool | None]) -> bool:
        """Release everything, clean up, restore ksmd's values.

        Args:
            reserve_percent: share of MemTotal that must stay available.
            foreign: asked before a clean-up scan: whether other processes merge too, whose pages
                it may not touch; None while that is not known.

        Returns:
            Whether the node is as it was before us.
        """
        self.manager = ""
        if not self.state.touched:
            return True
        self._way.stop()
        self._exec_trial.stop()
        self.attention.forget()
        if not self.departure.step(list(self.state.containers), reserve_percent):
            return False
        if not self.departure.is_due() or not self._cleaned(foreign):
            return False
        try:
            moved, restored = self._affinity.restore(), self.knobs.restore()
        except KernelError as error:
            self._metrics.errors.labels("restore").inc()
            log.warning("values of ksmd not restored yet", extra={"error": str(error)})
            return self._restore_later()
        if restored.pending:
            self.troubles = Troubles(pending=restored.pending)
            return self._restore_later()
        self.unrestored = moved + restored.left_alone
        log.info("node given back", extra={"leftAlone": list(self.unrestored)})
        self._reset()
        return True

    def _restore_later(self) -> bool:
        self._cleanup.forget()
        self.departure.put_off(RESTORE_PAUSE)
        return False

    def _reset(self) -> None:
        state = self.state
        fresh = State(state.boot_id, told=state.told, generation=state.generation)
        for name in ("owner", "baseline", "containers", "run_is_ours", "yielded", "affinity"):
            setattr(state, name, getattr(fresh, name))
        self._save()
        self._edition = None
        self._cleanup.forget()
        self.troubles = Troubles()
        self.enrolment.left.clear()

    def _cleaned(self, foreign: Callable[[], bool | None]) -> bool:
        if "run" not in self.state.baseline.files:
            return True  # ksmd never ran for us
        over = self._cleanup.step(foreign)
        self.troubles = self._cleanup.troubles
        return over

    def govern(self, spec: NodeSpec | None) -> float:
        """Measure ksmd and tell it what to do until the next time.

        Returns:
            Seconds until then; infinite while there is nothing to govern.
        """
        if not self.state.baseline.files and not self.state.containers:
            return float("inf")
        if self._cleanup.is_going_on:
            return cleanup.TICK
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
        self._affinity.keep()
        policy = spec.policy or NodePolicy()
        leaving = bool(self.departure.paths) or spec.desired_state in ("Released", "Observing")
        waited_for = leaving and not self._host.features.smaps_shows_merged
        in_debt = self.debt is not None and self.debt.is_held
        if (self.held or in_debt) and not waited_for:
            self.knobs.notice()
            self._governor.forget()
            self.stop_ksmd()
            return HELD_TICK
        hurry = waited_for or not enrolled
        troubles, pause = self._governor.step(
            policy.ksmd, self.enrolment.begun, self.state.containers, hurry=hurry
        )
        if troubles is not None:
            self._note(troubles)
        return pause

    def watch_over(self) -> float:
        """Keep room for what is merged, between the steps of a release and with who stays.

        Who leaves is left to the release, which asks for room by itself.

        Returns:
            Seconds until the next time.
        """
        enrolled = self.enrolment.enrolled_count() > 0
        saved = self.knobs.read().saved_bytes(page_size()) if enrolled else 0
        memory = read_meminfo()
        total = memory.get("MemTotal", 0)
        self.debt = reckon(self.debt, saved, node_headroom(memory, 0), total)
        self._metrics.guard.show_debt(self.debt)
        if not enrolled:
            self.guard.stop()
            return GUARD_IDLE
        leaving = self.departure.under_way
        if leaving.issuperset(self.state.containers):
            return GUARD_PAUSE
        return self.guard.step(
            saved=saved,
            merged=self._governor.merged,
            newcomers=self.enrolment.begun,
            leaving=leaving,
        )

    def hold(self, held: bool) -> bool:  # noqa: FBT001 - it is all that this is about
        """Have ksmd stand still, or let it scan again; tells whether that is a change."""
        changed, self.held = held != self.held, held
        return changed

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
        if self._cleanup.is_going_on:
            return cleanup.TICK
        return max(BUSY_WAIT, self.departure.wait())
