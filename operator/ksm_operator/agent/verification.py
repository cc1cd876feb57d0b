"""Whether those that are enrolled still merge, and still may."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ksm_operator.agent.looks import (
    LONGEST_SECONDS,
    Look,
    address_bytes,
    anonymous_bytes,
    has_spread,
    is_due,
    is_telling,
)
from ksm_operator.agent.record import keep_what_holds
from ksm_operator.kernel import (
    KernelError,
    Marks,
    SkipReason,
    merges_everything,
    needs_repair,
    read_ksm_stat,
    read_program,
    read_status,
    read_vmas,
    repair_after_exec,
)
from ksm_operator.kernel.enrol import method_for
from ksm_operator.kernel.exclusions import BY_DEFAULT, never, status_reason

if TYPE_CHECKING:
    from ksm_operator.agent.consent import Consent
    from ksm_operator.agent.host import Host
    from ksm_operator.agent.huge_pages import HugePages
    from ksm_operator.agent.releasing import Releasing
    from ksm_operator.agent.seen import Seen
    from ksm_operator.agent.state import Container
    from ksm_operator.kernel import Process


class Verification:
    """Looks at who is enrolled again, as often as it may have changed."""

    def __init__(
        self,
        host: Host,
        releasing: Releasing,
        huge_pages: HugePages,
        consent: Consent,
    ) -> None:
        """Be ready.

        Args:
            host: the machine.
            releasing: lets those go that must not merge any longer.
            huge_pages: decides on who lives in huge pages.
            consent: whose pods ask for merging.
        """
        self._host = host
        self._releasing = releasing
        self._huge_pages = huge_pages
        self._consent = consent

    def verify(self, container: Container, seen: Seen) -> list[Process]:
        """Find those whose enrolment did not last (an exec on some kernels) or must not.

        Returns:
            Those of which more is to be marked, since they have grown.
        """
        grown = []
        for process in list(container.enrolled):
            if self._is_going(container.path, process):
                continue  # its release may have begun
            try:
                status = read_status(process.pid)
                look = look_at(process, status)
                reason = self._excluded(process, container, status, seen, look)
                if reason in BY_DEFAULT:
                    self._consent.let_go(container.path, process)
                    seen.skip(process, str(reason))
                    continue
                reason = reason or self._huge_pages.why_no_longer(process, look.anonymous_bytes)
                if reason is not None:
                    self._releasing.dismiss(container.path, process)
                    self._huge_pages.let_go(process)
                    seen.skip(process, str(reason))
                    continue
                self._releasing.left.pop(process, None)  # it may stay, whatever was tried before
                if container.is_by_ranges(process):
                    if self._has_grown(process, container, look, seen.looks.get(process)):
                        grown.append(process)
                elif not self._lasts(process, look, seen):
                    self._bring_back(process, container)
                elif self._is_better_by_ranges(process, look, seen):
                    seen.by_ranges[process] = Marks("Madvise", look.program)
                    self._releasing.dismiss(container.path, process)
            except KernelError:
                continue
        return grown

    def _is_going(self, path: str, process: Process) -> bool:
        unwanted = self._consent.is_unwanted(path, process)
        return unwanted or self._releasing.is_dismissed(path, process)

    def _excluded(
        self,
        process: Process,
        container: Container,
        status: dict[str, str],
        seen: Seen,
        now: Look,
    ) -> SkipReason | None:
        """Why one that is enrolled must not be any longer.

        It may have been enrolled while it was still the runtime's init; it may have inherited
        merging and become a program that nobody has judged; any program may lock its memory later;
        and one that has just begun has not opened yet what tells what it is.
        """
        before, age = seen.looks.get(process), process.age()
        if (
            before is None
            or before.program != now.program
            or now.at - before.at >= LONGEST_SECONDS
            or is_telling(seen.young.get(process, age), age)
        ):
            seen.note_age(process, age)
            reason = never(process, asked=self._consent.asks(container.path))
        else:
            reason = status_reason(status.get("Name", ""), status)
        return reason or self._consent.why_not(container.path, status)

    def _has_grown(
        self, process: Process, container: Container, now: Look, before: Look | None
    ) -> bool:
        """Whether one that is enrolled by ranges may have more to mark."""
        marks = container.marks[process]
        if marks.program != now.program or marks.intended:
            # It has become another program; or an agent was killed before it was done.
            return keep_what_holds(process, container)
        return is_due(before, now, follows_growth=True)

    def _is_better_by_ranges(self, process: Process, now: Look, seen: Seen) -> bool:
        """Whether one that merges as a whole has become one that this kernel had better not.

        When it was enrolled it was the runtime's init, with a few small ranges. Once it is
        released it is enrolled as if it were new.
        """
        features = self._host.features
        if features.new_ranges_join and features.scan_skips_holes:
            return False  # it never matters
        if not has_spread(seen.spread.get(process), now):
            return False
        seen.spread[process] = now
        return method_for(features, read_vmas(process)) == "Madvise"

    def _lasts(self, process: Process, now: Look, seen: Seen) -> bool:
        """Whether merging is still on for the whole process, and ksmd knows of it."""
        before = seen.looks.get(process)
        stat = read_ksm_stat(process)
        is_on = stat.merge_any
        due = is_due(before, now, follows_growth=False)
        if is_on is None:  # reading all ranges costs more
            is_on = merges_everything(process) if due else True
        if not is_on:
            return False
        if due:
            if needs_repair(self._host.features, stat):
                repair_after_exec(process, self._host.tracer)
            seen.looks[process] = now
        return True

    def _bring_back(self, process: Process, container: Container) -> None:
        """Take one off the record for which merging is off again; its own marks come back."""
        if process not in container.marks or self._releasing.give_marks_back(process, container):
            container.drop(process)


def look_at(process: Process, status: dict[str, str]) -> Look:
    """Return what a process is like now.

    Raises:
        ProcessGone: it exited.
        KernelError: no right to look.
    """
    return Look(
        read_program(process), anonymous_bytes(status), time.monotonic(), address_bytes(status)
    )
