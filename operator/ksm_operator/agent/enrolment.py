"""Enrols the processes of containers and releases them again, keeping the record straight."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ksm_operator.agent.cgroups import processes_in
from ksm_operator.agent.descent import is_ours
from ksm_operator.agent.state import Container
from ksm_operator.kernel import (
    AlreadyMergeable,
    KernelError,
    Postponed,
    Process,
    ProcessGone,
    Refused,
    ReleaseProgress,
    Rooms,
    SkipReason,
    enrol,
    find_process,
    is_alive,
    read_ksm_stat,
    read_stat,
    read_status,
    release,
    release_all,
)
from ksm_operator.kernel.exclusions import status_reason

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping

    from ksm_operator.agent.host import Host
    from ksm_operator.agent.metrics import Metrics
    from ksm_operator.agent.state import State

log = logging.getLogger(__name__)

FAILED: Final = "Failed"
"""The kernel refused what was asked, in a way that another try will hardly mend."""

PATIENCE_SECONDS: Final = 10.0
"""How long a release may be put off by what its process is doing before the node is blocked."""


@dataclass(slots=True)
class Seen:
    """What was found in a container that is not written to disk.

    Attributes:
        skipped: processes that are left alone, with the reason.
        postponed: processes to try again.
        first: the oldest process seen.
        logged: reasons that were logged already.
    """

    skipped: dict[Process, str] = field(default_factory=dict)
    postponed: dict[Process, str] = field(default_factory=dict)
    first: Process | None = None
    logged: dict[Process, str] = field(default_factory=dict)


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


class Enrolment:
    """Changes processes, and the state with them.

    Attributes:
        state: what is remembered; replaced as a whole when everything was given back.
        seen: what is known of containers beyond the state, by cgroup path.
        left: processes whose release did not succeed yet.
    """

    def __init__(
        self, host: Host, state: State, save: Callable[[], None], metrics: Metrics
    ) -> None:
        self.state = state
        self.seen: dict[str, Seen] = {}
        self.left: dict[Process, Left] = {}
        self._host = host
        self._save = save
        self._metrics = metrics

    def processes(self, path: str) -> list[Process]:
        """Return who lives in a container now, the oldest first."""
        found = []
        for pid in processes_in(self._host.hierarchy, path):
            try:
                found.append(find_process(pid))
            except KernelError:
                continue
        found.sort(key=lambda process: (process.start_time, process.pid))
        if found:
            self.seen.setdefault(path, Seen()).first = found[0]
        return found

    def oldest(self, path: str) -> Process | None:
        """Return the oldest process seen in a container; None if nothing runs in it."""
        if path not in self.seen or self.seen[path].first is None:
            self.processes(path)
        return self.seen[path].first if path in self.seen else None

    def has_newcomers(self, path: str) -> bool:
        """Tell whether a pid in a container is neither on record nor left alone; cheap."""
        known = set(self.seen[path].skipped) if path in self.seen else set()
        container = self.state.containers.get(path)
        if container is not None:
            known |= container.enrolled | container.own
        return not {one.pid for one in known}.issuperset(processes_in(self._host.hierarchy, path))

    def attend(self, path: str, pod_uid: str) -> bool:
        """Enrol what lives in a container and is not enrolled yet.

        Returns:
            Whether some process is to be tried again.
        """
        now = self.processes(path)
        seen = self.seen.setdefault(path, Seen())
        container = self.state.containers.get(path)
        if container is not None:
            self._forget_dead(container, set(now))
            self._verify(container, seen)
        seen.skipped = {one: why for one, why in seen.skipped.items() if one in now}
        seen.logged = {one: why for one, why in seen.logged.items() if one in now}
        seen.postponed = {}
        known = container.enrolled | container.own if container else set()
        new = [one for one in now if one not in known and one not in seen.skipped]
        if not new:
            return False
        fresh = container is None
        if container is None:
            container = self._intend(path, pod_uid, new)
            new = [one for one in new if one not in container.own]
        enrolled = [one for one in new if self._enrol(one, container, seen, fresh=fresh)]
        if fresh and not container.own and all(_untouched(seen.skipped.get(one)) for one in new):
            # Nobody was asked to merge, so nobody can have inherited it. A record of anything
            # else stays: a process that took the call and ended may have left a child behind,
            # which only this record tells from one that was mergeable before us.
            del self.state.containers[path]
        self._save()
        if enrolled:
            log.info(
                "processes enrolled",
                extra={"podUID": pod_uid, "cgroup": path, "pids": [one.pid for one in enrolled]},
            )
        return bool(seen.postponed)

    def _intend(self, path: str, pod_uid: str, processes: list[Process]) -> Container:
        """Record a container before anything in it is enrolled, with those who were there first."""
        container = Container(pod_uid, path)
        for process in processes:
            try:
                if read_ksm_stat(process).merge_any:
                    container.own.add(process)
            except KernelError:
                continue
        self.state.containers[path] = container
        self._save()
        return container

    def _enrol(  # noqa: PLR0911 - one line per answer of the kernel layer
        self, process: Process, container: Container, seen: Seen, *, fresh: bool
    ) -> bool:
        started = time.monotonic()
        try:
            result = enrol(process, self._host.tracer)
        except ProcessGone:
            return False
        except Refused as error:
            reason = str(error.reason)
            seen.skipped[process] = reason
            if seen.logged.get(process) != reason:
                seen.logged[process] = reason
                log.info("process skipped", extra={"pid": process.pid, "reason": reason})
            return False
        except Postponed as error:
            if _merges(process):  # the call was made before something came between
                container.enrolled.add(process)
                return True
            seen.postponed[process] = error.reason
            log.debug("process postponed", extra={"pid": process.pid, "reason": error.reason})
            return False
        except KernelError as error:
            if _merges(process):
                container.enrolled.add(process)
                return True
            self._metrics.errors.labels("enrol").inc()
            seen.skipped[process] = FAILED
            log.warning("process not enrolled", extra={"pid": process.pid, "error": str(error)})
            return False
        if isinstance(result, AlreadyMergeable):
            if result.by == "Prctl" and is_ours(process, container, _parent, fresh=fresh):
                container.enrolled.add(process)
                return True
            container.own.add(process)
            log.info("process was mergeable before", extra={"pid": process.pid, "by": result.by})
            return False
        self._metrics.enrol_seconds.observe(time.monotonic() - started)
        container.enrolled.add(process)
        return True

    def _verify(self, container: Container, seen: Seen) -> None:
        """Find those whose enrolment did not last (an exec on some kernels) or should not."""
        for process in list(container.enrolled):
            try:
                if read_ksm_stat(process).merge_any is False:
                    container.enrolled.discard(process)
                    continue
                reason = status_reason(read_stat(process.pid).comm, read_status(process.pid))
            except KernelError:
                continue
            # It was enrolled while it was still the runtime's init.
            if reason is SkipReason.PAUSE and self._release_now(process, container):
                container.enrolled.discard(process)
                seen.skipped[process] = seen.logged[process] = str(reason)
                self._save()

    def release(self, paths: Iterable[str], reserve_percent: int) -> Generator[float, None, None]:
        """Release what we enrolled in containers, as far as there is room, sharers before payers.

        It may be closed at any time: what was released by then is off the record, no more.

        Args:
            paths: cgroups of the containers.
            reserve_percent: share of MemTotal that must stay available.

        Yields:
            After each small step, the seconds to wait before the next.
        """
        containers = self.state.containers
        leaving = {path: containers[path] for path in paths if path in containers}
        released: set[Process] = set()

        def members() -> set[Process]:
            # A child that was forked before its parent's turn came is found by another look.
            self._inherit_all(leaving)
            enrolled = (container.enrolled for container in leaving.values())
            return set().union(*enrolled) - released

        def told(process: Process, outcome: ReleaseProgress | KernelError) -> None:
            for container in leaving.values():
                if process in container.enrolled and self._settle(process, container, outcome):
                    released.add(process)

        rooms = Rooms(self._host.hierarchy, reserve_percent / 100)
        try:
            yield from release_all(members, self._host.tracer, rooms, told)
        finally:
            # Whose child is whose can only be told while the parents are on record.
            self._inherit_all(leaving)
            for path, container in leaving.items():
                container.enrolled -= released
                if not container.enrolled and containers.pop(path, None) is not None:
                    extra = {"podUID": container.pod_uid, "cgroup": path}
                    log.info("container released", extra=extra)
            self._save()

    def _inherit_all(self, leaving: Mapping[str, Container]) -> None:
        for path, container in leaving.items():
            self._inherit(path, container)

    def _inherit(self, path: str, container: Container) -> None:
        """Put children of enrolled processes on record that nobody has looked at yet."""
        for process in self.processes(path):
            if process in container.enrolled or process in container.own:
                continue
            if _merges(process) and is_ours(process, container, _parent):
                container.enrolled.add(process)

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

    def _release_now(self, process: Process, container: Container) -> bool:
        """Without asking for room: for one that holds next to nothing."""
        try:
            outcome: ReleaseProgress | KernelError
            outcome = release(process, self._host.tracer, lambda: None)
        except KernelError as error:
            outcome = error
        return self._settle(process, container, outcome)

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

    def _forget_dead(self, container: Container, here: set[Process]) -> None:
        container.enrolled = {one for one in container.enrolled if one in here or is_alive(one)}
        container.own = {one for one in container.own if one in here or is_alive(one)}

    def prune(self) -> None:
        """Forget containers in which nobody lives any more, and what was seen in lost ones."""
        gone = []
        for path, container in self.state.containers.items():
            container.enrolled = {one for one in container.enrolled if is_alive(one)}
            container.own = {one for one in container.own if is_alive(one)}
            if not container.enrolled and not container.own and not self.processes(path):
                gone.append(path)
        for path in gone:
            del self.state.containers[path]
        self.seen = {
            path: seen
            for path, seen in self.seen.items()
            if path in self.state.containers or self._host.hierarchy.path(path).is_dir()
        }
        self.left = {one: left for one, left in self.left.items() if is_alive(one)}
        if gone:
            self._save()

    def retry_skipped(self) -> None:
        """Look again at processes that were left alone: a program may have changed since."""
        for seen in self.seen.values():
            seen.skipped.clear()

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


def _untouched(skipped: str | None) -> bool:
    """True for a process that was refused before it could make the call."""
    return skipped is not None and skipped != FAILED


def _merges(process: Process) -> bool:
    try:
        return bool(read_ksm_stat(process).merge_any)
    except KernelError:
        return False


def _parent(pid: int) -> int | None:
    try:
        return read_stat(pid).ppid
    except KernelError:
        return None
