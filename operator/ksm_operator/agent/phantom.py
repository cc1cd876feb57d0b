"""What cgroups are charged for merged pages that only others map: measured now and then.

In a thread of its own, because a look at a node full of processes takes a second and targets must
not wait for it. How often is bounded by what it costs.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel import Estimate, KernelError, inodes_above, phantom_of, survey_payers
from ksm_operator.kernel.memory_lock import cpu_seconds, must_not_hang

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from ksm_operator.agent.containers_survey import ContainersSurvey
    from ksm_operator.kernel import Hierarchy, Process

log = logging.getLogger(__name__)

LEAST_SECONDS: Final = 60.0
MOST_CPU_SHARE: Final = 0.001
"""Of one core: a look that took 0.5 s of CPU is not repeated for 500 s."""


@dataclass(frozen=True, slots=True)
class Look:
    """One look.

    Attributes:
        found: the phantom charge of the node; None where the kernel does not tell.
        at: when it ended, by the monotonic clock.
        cpu_seconds: what it cost.
    """

    found: Estimate | None
    at: float
    cpu_seconds: float


def is_due(last: Look | None, now: float) -> bool:
    """Whether it is time for another look."""
    if last is None:
        return True
    return now - last.at >= max(LEAST_SECONDS, last.cpu_seconds / MOST_CPU_SHARE)


class PhantomCharge:
    """The phantom charge of the node, of the last look."""

    def __init__(self, hierarchy: Hierarchy, containers: ContainersSurvey | None = None) -> None:
        """Measure nothing yet.

        Args:
            hierarchy: the memory cgroups of the host.
            containers: takes each survey too.
        """
        self._hierarchy = hierarchy
        self._containers = containers
        self._last: Look | None = None
        self._thread: threading.Thread | None = None
        self._told = ""

    def read(self, processes: Iterable[Process], *, anything_merged: bool) -> Estimate | None:
        """The charge by the last look, which may be about to be made anew; None before it.

        Args:
            processes: who may have merged pages.
            anything_merged: by the node's counters; nothing is looked at where they say no.
        """
        if not anything_merged:
            return Estimate(0)
        busy = self._thread is not None and self._thread.is_alive()
        if not busy and is_due(self._last, time.monotonic()):
            self._thread = threading.Thread(
                target=self._look, args=(list(processes),), name="phantom", daemon=True
            )
            self._thread.start()
        return self._last.found if self._last is not None else None

    def _look(self, processes: Collection[Process]) -> None:
        found: Estimate | None = None
        must_not_hang()
        began = cpu_seconds()
        try:
            survey = survey_payers(processes)
            homes = {}
            for process in {process for each in survey.shared for process, _ in each.mappers}:
                try:
                    directory = self._hierarchy.directory(process.pid)
                except KernelError:
                    continue  # it exited: nobody wants to have its pages again
                homes[process] = inodes_above(self._hierarchy, directory)
            found = phantom_of(survey, homes)
            if self._containers is not None:
                self._containers.take(survey, processes)
        except (KernelError, OSError, ValueError) as error:
            if self._told != str(error):  # a kernel that cannot tell never can
                self._told = str(error)
                log.warning("phantom charge not measured", extra={"error": self._told})
        finally:  # whatever happened, the next look has to wait
            self._last = Look(found, time.monotonic(), cpu_seconds() - began)
