"""Releases the processes of containers, keeping the record straight."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ksm_operator.agent.cgroups import living_in
from ksm_operator.agent.record import adopt_all, forget_if_empty
from ksm_operator.kernel import (
    KernelError,
    Marks,
    Postponed,
    Process,
    ProcessGone,
    ReleaseProgress,
    Rooms,
    is_alive,
    release,
    release_all,
)
from ksm_operator.kernel.procfs import PROC
from ksm_operator.kernel.turns import Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable, Mapping

    from ksm_operator.agent.host import Host
    from ksm_operator.agent.metrics import Metrics
    from ksm_operator.agent.state import Container, State

log = logging.getLogger(__name__)

FAILED: Final = "Failed"
"""The kernel refused what was asked, in a way that another try will hardly mend."""

ROOM_PAUSE: Final = 5.0
"""Seconds until a release that did not fit is tried again: room comes slowly, a try costs."""
MOMENT_PAUSE: Final = 0.5
"""The same where it was only a bad moment for a process."""

PATIENCE_SECONDS: Final = 10.0
"""How long a release may be put off by what its process is doing before the node is blocked."""


@dataclass(frozen=True, slots=True)
class Left:
    """A process that could not be released yet.

    Attributes:
        process: who.
        path: its container's cgroup.
        remaining_bytes: what it still has merged.
        reason: why.
        since: monotonic time of the first try.
        level: the cgroup that lacks room, or `node`; None if that is not why.
        lacking_bytes: how much more room it would take.
    """

    process: Process
    path: str
    remaining_bytes: int
    reason: str
    since: float
    level: str | None = None
    lacking_bytes: int = 0

    def blocks(self, now: float) -> bool:
        """Tell whether somebody should hear of it: not of a thread that was busy for a moment."""
        return self.reason in ("NoHeadroom", FAILED) or now - self.since >= PATIENCE_SECONDS


def going(container: Container, only: Mapping[str, Collection[Process]]) -> set[Process]:
    """Who is to be released of those enrolled in a container. Pure."""
    return container.enrolled & set(only.get(container.path, container.enrolled))


def pause_before_release(left: Collection[Left], now: float) -> float:
    """Seconds until these are tried again. Pure."""
    return ROOM_PAUSE if not left or any(one.blocks(now) for one in left) else MOMENT_PAUSE


class Releasing:
    """Takes processes off the record as they are given back.

    Attributes:
        left: processes whose release did not succeed yet.
        dismissed: who has to go though his container stays, by the container's path. He goes as
            others do, in his time; as that may have begun, he has to go whatever becomes of him.
    """

    def __init__(
        self, host: Host, state: State, save: Callable[[], None], metrics: Metrics
    ) -> None:
        self.left: dict[Process, Left] = {}
        self.dismissed: dict[str, set[Process]] = {}
        self._host = host
        self._state = state
        self._save = save
        self._metrics = metrics

    def release(
        self,
        paths: Iterable[str],
        reserve_percent: int,
        only: Mapping[str, Collection[Process]],
    ) -> Generator[float, None, None]:
        """Release what we enrolled in containers, as far as there is room, sharers before payers.

        It may be closed at any time: what was released by then is off the record, no more.

        Args:
            paths: cgroups of the containers.
            reserve_percent: share of MemTotal that must stay available.
            only: of some of them, who has to go; of the others everybody has.

        Yields:
            After each small step, the seconds to wait before the next.
        """
        containers = self._state.containers
        leaving = [containers[path] for path in paths if path in containers]
        released: set[Process] = set()

        def members() -> set[Process]:
            # A child that was forked before its parent's turn came is found by another look.
            self._adopt(leaving)
            return set().union(*(going(container, only) for container in leaving)) - released

        def told(process: Process, outcome: ReleaseProgress | KernelError) -> None:
            for container in leaving:
                if process in container.enrolled and self._settle(process, container, outcome):
                    released.add(process)

        def marks_of(process: Process) -> Marks | None:
            found = (one.marks[process] for one in leaving if process in one.marks)
            return next(found, None)

        try:
            yield from release_all(
                members,
                self._host.tracer,
                Rooms(self._host.hierarchy, reserve_percent / 100),
                told,
                marks_of=marks_of,
                keeps_flags=self._keeps_flags,
            )
        finally:
            # Whose child is whose can only be told while the parents are on record.
            self._adopt(leaving)
            for container in leaving:
                for process in released:
                    container.drop(process)
                self.dismissed.get(container.path, set()).difference_update(released)
                if container.path in only:
                    here = living_in(self._host.hierarchy, container.path)
                    forget_if_empty(containers, container, here)
                elif not container.enrolled and containers.pop(container.path, None) is not None:
                    extra = {"podUID": container.pod_uid, "cgroup": container.path}
                    log.info("container released", extra=extra)
            self._save()

    def dismiss(self, path: str, process: Process) -> None:
        """Have a process released whose container stays."""
        self.dismissed.setdefault(path, set()).add(process)

    def is_dismissed(self, path: str, process: Process) -> bool:
        """Whether a process has to go though its container stays."""
        return process in self.dismissed.get(path, ())

    def forget_dismissed(self) -> None:
        """Forget those who have gone."""
        containers = self._state.containers
        self.dismissed = {
            path: still
            for path, them in self.dismissed.items()
            if path in containers and (still := them & containers[path].enrolled)
        }

    def give_marks_back(self, process: Process, container: Container) -> bool:
        """Mark again what the program of one had marked whose merging is off; True when done.

        It holds nothing that is merged, so this needs no room.
        """
        outcome: ReleaseProgress | KernelError
        try:
            outcome = release(
                process,
                self._host.tracer,
                Turn(process, Rooms(self._host.hierarchy, 0.0), PROC).room,
                marks=container.marks.get(process),
                keeps_flags=self._keeps_flags,
            )
        except Postponed:
            return False
        except KernelError as error:
            outcome = error
        return self._settle(process, container, outcome)

    def forget_dead(self) -> None:
        """Forget why processes were left that have ended since."""
        self.left = {one: left for one, left in self.left.items() if is_alive(one)}

    @property
    def _keeps_flags(self) -> bool:
        return self._host.features.unmerge_keeps_flags is True

    def _adopt(self, leaving: Iterable[Container]) -> None:
        for container in leaving:
            adopt_all(living_in(self._host.hierarchy, container.path), container)

    def _settle(
        self, process: Process, container: Container, progress: ReleaseProgress | KernelError
    ) -> bool:
        """Keep the record of how far a release came; True if the process holds nothing of ours."""
        if isinstance(progress, ProcessGone):
            self.left.pop(process, None)
            return True
        if isinstance(progress, KernelError):
            self._metrics.errors.labels("release").inc()
            self._put_off(process, container, ReleaseProgress(False, 0, FAILED))
            log.warning("process not released", extra={"pid": process.pid, "error": str(progress)})
            return False
        self._host.given_back += progress.freed_bytes
        if progress.done:
            self.left.pop(process, None)
            self._metrics.released.inc()
            log.info(
                "process released",
                extra={"pid": process.pid, "bytes": progress.freed_bytes},
            )
            return True
        if process not in self.left:
            log.info(
                "process not released yet",
                extra={
                    "pid": process.pid,
                    "cgroup": container.path,
                    "reason": progress.reason,
                    "remainingBytes": progress.remaining_bytes,
                    "lacking": progress.level or "",
                    "lackingBytes": progress.lacking_bytes,
                },
            )
        self._put_off(process, container, progress)
        return False

    def _put_off(self, process: Process, container: Container, progress: ReleaseProgress) -> None:
        before = self.left.get(process)
        self.left[process] = Left(
            process,
            container.path,
            progress.remaining_bytes,
            progress.reason or "Unknown",
            before.since if before is not None else time.monotonic(),
            progress.level,
            progress.lacking_bytes,
        )
