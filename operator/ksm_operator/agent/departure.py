"""Lets containers go over many ticks: a release waits for room, and the loop goes on meanwhile."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from ksm_operator.agent.attention import SLICE_SECONDS
from ksm_operator.agent.releasing import going, pause_before_release

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence

    from ksm_operator.agent.releasing import Left
    from ksm_operator.agent.state import State
    from ksm_operator.kernel import Process


class Releases(Protocol):
    """What can release processes, in small steps; see `Enrolment`."""

    @property
    def left(self) -> Mapping[Process, Left]:
        """Processes that could not be released yet."""

    def release(
        self,
        paths: Iterable[str],
        reserve_percent: int,
        only: Mapping[str, Collection[Process]] | None,
    ) -> Generator[float, None, None]:
        """Release what is enrolled in containers; yields the seconds before each next step."""


class Departure:
    """Who is to leave, and the release that is under way for them.

    Attributes:
        paths: cgroup paths of the containers that are to leave and have not left yet.
    """

    def __init__(
        self,
        state: State,
        releases: Releases,
        stopped: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.paths: frozenset[str] = frozenset()
        self._state = state
        self._releases = releases
        self._stopped = stopped
        self._clock = clock
        self._steps: Generator[float, None, None] | None = None
        self._begun_for: dict[str, bool] = {}
        self._next = 0.0

    @property
    def is_going_on(self) -> bool:
        """Whether a release has been begun and is not over."""
        return self._steps is not None

    @property
    def under_way(self) -> frozenset[str]:
        """Cgroup paths of the containers that a release is going through."""
        return frozenset(self._begun_for)

    def step(
        self,
        leaving: Iterable[str],
        reserve_percent: int,
        only: Mapping[str, Collection[Process]] | None = None,
    ) -> bool:
        """Release containers as far as there is room, for as long as a tick may take.

        Args:
            leaving: cgroup paths of containers that must be released.
            reserve_percent: share of MemTotal that must stay available.
            only: who has to go of some of them, where not everybody has.

        Returns:
            Whether none of them holds anything of ours any more.
        """
        leaving, only = list(leaving), only or {}
        pending = self._pending(leaving, only)
        self.paths = frozenset(pending).difference(only)
        if not pending:
            self._end()
            return True
        if self._is_overtaken(pending, only):
            self._end()
        if not self.is_due():
            return False
        if self._steps is None:
            self._begun_for = {path: path in only for path in pending}
            self._steps = self._releases.release(pending, reserve_percent, only)
        ends = self._clock() + SLICE_SECONDS
        for wait in self._steps:
            if self._stopped():
                self._end()
                return False
            now = self._clock()
            self._next = now + wait
            if wait or now > ends:
                return False
        begun = list(self._begun_for)
        self._end()
        if self._pending(begun, only):
            self.put_off(pause_before_release(self._releases.left.values(), self._clock()))
        return not self._pending(pending, only)

    def _is_overtaken(
        self, pending: Sequence[str], only: Mapping[str, Collection[Process]]
    ) -> bool:
        """Whether the release under way is not what is wanted any more.

        A container is wanted again, or all of it has to go and not only some; or containers are to
        leave, for whom others wait, while it goes through some of those that stay.
        """
        for path, some in self._begun_for.items():
            wanted = path in pending and some == (path in only)
            if not wanted and path in self._state.containers:
                return True
        return all(self._begun_for.values()) and any(path not in only for path in pending)

    def _pending(self, paths: Iterable[str], only: Mapping[str, Collection[Process]]) -> list[str]:
        containers = self._state.containers
        # A record of nobody enrolled has to go too: it keeps the node from another owner.
        return [
            path
            for path in paths
            if path in containers and (path not in only or going(containers[path], only))
        ]

    def _end(self) -> None:
        if self._steps is not None:
            self._steps.close()
        self._steps = None
        self._begun_for = {}

    def put_off(self, seconds: float) -> None:
        """Have nothing more released, or given back, for some seconds."""
        self._next = self._clock() + seconds

    def is_due(self) -> bool:
        """Whether the next step's time has come."""
        return self._clock() >= self._next

    def wait(self) -> float:
        """Return seconds until the next step's time."""
        return max(0.0, self._next - self._clock())
