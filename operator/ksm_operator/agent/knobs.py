"""ksmd's files: written only after the old value was recorded, read back, never fought over.

A file that somebody else changed after our last write is theirs ("yielded") until the policy is
edited: it is left alone and reported.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ksm_operator.kernel import (
    SysfsBusy,
    SysfsError,
    SysfsHeldUp,
    SysfsReadOnly,
    Unsupported,
    restore_plan,
)
from ksm_operator.kernel.patient_sysfs import WAITS_FOR_KSMD

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ksm_operator.agent.state import State
    from ksm_operator.kernel import KsmSysfs, KsmValues
    from ksm_operator.kernel.baseline import SavedValue

log = logging.getLogger(__name__)

GOVERNED = ("smart_scan", "advisor_mode", "pages_to_scan", "sleep_millisecs", "run")
"""Files that change with every measurement: after a restart what they hold is taken as ours."""


@dataclass(frozen=True, slots=True)
class Troubles:
    """What could not be written, file by file.

    Attributes:
        pending: refused by the kernel while pages are shared, or held up with ksmd.
        missing: not on this kernel.
        read_only: what the kernel or mount said; empty if it can be written.
        refused: refused for another reason, with the kernel's words.
    """

    pending: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    read_only: str = ""
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Restored:
    """What became of putting the former values back.

    Attributes:
        left_alone: files that hold neither our value nor the former one.
        pending: files whose change the kernel refuses, because others share pages.
    """

    left_alone: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()


@dataclass(slots=True)
class _Found:
    pending: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    read_only: str = ""
    refused: list[str] = field(default_factory=list)


class Knobs:
    """Writes ksmd's files for the agent and gives them back.

    Attributes:
        state: where the baseline is kept.
    """

    def __init__(
        self,
        sysfs: KsmSysfs,
        state: State,
        save: Callable[[], None],
        others_wrote_run: Callable[[], bool] = lambda: False,
    ) -> None:
        """Write nothing yet.

        Args:
            sysfs: the files.
            state: where the baseline is kept.
            save: keeps it on disk.
            others_wrote_run: tells whether another process wrote to `run` since it was asked last;
                only so is an admin's 0 seen where it was 0 already.
        """
        self.state = state
        self._sysfs = sysfs
        self._save = save
        self._others_wrote_run = others_wrote_run
        self._started = False
        self._run_is_theirs = self._let_run = False
        self._held_up: tuple[str, SavedValue | None] | None = None

    def read(self) -> KsmValues:
        """Return all values now."""
        return self._sysfs.read()

    def adopt(self) -> None:
        """After a restart: tell what another changed meanwhile from what we left behind.

        Values that follow measurements were written too often to know which one was the last;
        `run` is the exception, because an admin's 0 is respected. A file that holds what it held
        before us was about to be written, or had just been restored, when the last agent ended.
        """
        now = self.read()
        for name, saved in self.state.baseline.files.items():
            value = now.get(name)
            if value is None or saved.written is None or value == saved.written:
                continue
            if name == "run" and value == 0 and not self.state.run_is_ours:
                self._yield(name, saved.written, value)
            elif name in GOVERNED or value == saved.before:
                self.state.baseline = self.state.baseline.record(name, now, value)
            else:
                self._yield(name, saved.written, value)
        self._save()

    def notice(self) -> KsmValues:
        """Give up the files that somebody else changed since our last write; return all values."""
        # Asked first: a write that ends while the values are read has not shown in all of them.
        busy = self._sysfs.unfinished
        if not busy:
            self._settle()
        now = self.read()
        self._run_is_theirs |= self._others_wrote_run()
        for name, saved in self.state.baseline.files.items():
            value = now.get(name)
            if saved.written is None or value is None or name in self.state.yielded:
                continue
            if name == busy:
                continue  # it does not hold what we wrote yet
            if value != saved.written:
                self._yield(name, saved.written, value)
            elif name == "run" and self._run_is_theirs:
                if value == 1 and self._let_run:
                    if busy:
                        continue  # it could not be written now
                    now = self._stop_for_them(now)
                self._yield(name, saved.written, value)
            else:
                continue
            self._save()
        if not busy:
            self._run_is_theirs = self._let_run = False
        return now

    def _settle(self) -> None:
        """Have no record of a write that was held up and then refused."""
        if self._held_up is not None and self._sysfs.failed:
            self.state.baseline = self.state.baseline.with_file(*self._held_up)
            self._save()
        self._held_up = None

    def _stop_for_them(self, now: KsmValues) -> KsmValues:
        """Write 0 where our 1 may have overwritten an administrator's 0; return all values.

        We and another process wrote since the last look, so nobody knows what the other one wrote.
        Were it a 0, ksmd would run on with nobody to stop it: what is theirs is not written to any
        more, for no limit and no foreign merger. Were it a 1, its manager writes it again at its
        next turn, and that is left alone. A 1 that was written when we had not written is theirs
        for sure, and is not touched.
        """
        self.state.baseline = self.state.baseline.record("run", now, 0)
        found = _Found()
        try:
            self._try("run", 0, found)
        except SysfsHeldUp as error:
            log.warning("ksmd is held up", extra={"error": str(error)})
        if found.refused or found.read_only:
            log.error("ksmd is not stopped", extra={"error": [*found.refused, found.read_only]})
        return self.read()

    def reclaim(self) -> None:
        """Take back what somebody else changed: the policy was edited since."""
        now = self.notice()
        for name in self.state.yielded:
            value = now.get(name)
            if value is not None and name != self._sysfs.unfinished:
                self.state.baseline = self.state.baseline.record(name, now, value)
        self.state.yielded.clear()
        self._started = self._run_is_theirs = self._let_run = False
        self._save()

    def apply(self, values: Mapping[str, int | str]) -> Troubles:
        """Write what differs and is not somebody else's, in order, each verified by reading back.

        Returns:
            What could not be written; what could is not listed.
        """
        found = _Found()
        now = self.notice()
        for name, value in values.items():
            if name in self.state.yielded:
                continue
            if now.get(name) is None:
                if name != "advisor_mode":
                    found.missing.append(name)
                continue
            if self._sysfs.unfinished and name in WAITS_FOR_KSMD:
                if name not in GOVERNED:
                    found.pending.append(name)
                continue  # it is asked again, as anything that differs
            if now.get(name) != value:
                now = self._write(name, value, now, found)
        return Troubles(
            tuple(found.pending), tuple(found.missing), found.read_only, tuple(found.refused)
        )

    def _write(self, name: str, value: int | str, now: KsmValues, found: _Found) -> KsmValues:
        """Write one file and return what all of them hold then."""
        before, zero_was_ours = self.state.baseline, self.state.run_is_ours
        self.state.baseline = before.record(name, now, value)
        # Also of a 1 that is about to be written: should we end before, the 0 is no admin's.
        unsure = name == "run" and not zero_was_ours
        if unsure:
            self.state.run_is_ours = True
        if unsure or name not in before.files or name not in GOVERNED:
            self._save()
        self._let_run |= name == "run" and value == 1
        try:
            written = self._try(name, value, found)
        except SysfsHeldUp as error:
            log.warning("ksmd is held up", extra={"error": str(error)})
            self._held_up = name, before.files.get(name)
            if name not in GOVERNED:
                found.pending.append(name)
            return self.read()  # the write goes on by itself
        after = self.read()
        if written and after.get(name) == value:
            level = logging.DEBUG if name in GOVERNED else logging.INFO
            log.log(level, "ksmd value written", extra={"file": name, "value": value})
            if name == "run" and value == 1:
                self._runs()
            return after
        if written:
            found.refused.append(f"{name} does not keep {value}")
        self.state.baseline, self.state.run_is_ours = before, zero_was_ours
        self._save()
        return after

    def _try(self, name: str, value: int | str, found: _Found) -> bool:
        """Write one file; tells whether it was taken, and what stood in the way is in `found`."""
        try:
            self._sysfs.write(name, value)
        except SysfsHeldUp:
            raise
        except SysfsBusy:
            found.pending.append(name)
        except SysfsReadOnly as error:
            found.read_only = str(error)
        except Unsupported:
            found.missing.append(name)
        except SysfsError as error:
            found.refused.append(str(error))
        else:
            return True
        return False

    def _runs(self) -> None:
        """From now on a 0 is an admin's. Not after every stop: a limit may bring many a second."""
        if not self._started:
            self._started = True
            self.state.run_is_ours = False
            self._save()

    def restore(self) -> Restored:
        """Put the values from before our first write back.

        Raises:
            SysfsError: a value cannot be written now, and not because pages are shared.
        """
        self._started = False
        plan = restore_plan(self.state.baseline, self.read())
        if ("run", 0) in plan.writes and not self.state.run_is_ours:
            self.state.run_is_ours = True
            self._save()
        pending = []
        for name, value in plan.writes:
            try:
                self._sysfs.write(name, value)
            except SysfsBusy:
                pending.append(name)
            else:
                log.info("ksmd value restored", extra={"file": name, "value": value})
        return Restored(plan.externally_modified, tuple(pending))

    def _yield(self, name: str, written: int | str, value: int | str) -> None:
        self.state.yielded.add(name)
        log.warning(
            "somebody else changed a value of ksmd; it is left alone until the policy is edited",
            extra={"file": name, "ours": written, "theirs": value},
        )
