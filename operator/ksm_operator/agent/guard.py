"""Keeps every cgroup in a state in which its processes can have again what they had merged.

A look at the node and what follows from it is one generator of the kernel layer (`relieve`); it is
taken a slice at a time, so that the loop goes on. When it is worth it, `vigilance` says.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from ksm_operator.agent.cgroups import living_in
from ksm_operator.agent.record import adopt_all
from ksm_operator.agent.vigilance import Glance, Looked, Vigilance
from ksm_operator.kernel import KernelError, Relief, Rooms, relieve
from ksm_operator.kernel.headroom import NODE, read_limits, read_usage, usage_file
from ksm_operator.kernel.memory_lock import cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from ksm_operator.agent.host import Host
    from ksm_operator.agent.metrics import Metrics
    from ksm_operator.agent.state import State
    from ksm_operator.kernel import Process
    from ksm_operator.kernel.guard_plan import Exposed
    from ksm_operator.kernel.marks import Marks

log = logging.getLogger(__name__)

SLICE_SECONDS: Final = 0.05
RESERVE_SHARE: Final = 0.02
"""Of MemTotal, beyond the kubelet's eviction threshold: pages given back to save one pod must not
cost another. Less than a release leaves, because nobody dies of a release that waits."""
NOTHING_DONE: Final = Relief({}, {}, (), {}, {})


class Guard:
    """The guard of one node.

    Attributes:
        exposed: cgroups that lack room and cannot be helped, of the last look.
    """

    def __init__(
        self, host: Host, state: State, metrics: Metrics, vigilance: Vigilance | None = None
    ) -> None:
        self.exposed: tuple[Exposed, ...] = ()
        self._host = host
        self._state = state
        self._metrics = metrics.guard
        self._vigilance = vigilance or Vigilance()
        self._steps: Generator[float, None, Relief] | None = None
        self._began = Glance()
        self._cpu_seconds = 0.0
        self._last: Looked | None = None
        self._files: dict[str, str] = {}
        self._limits: dict[str, tuple[int | None, ...]] = {}
        self._next_limits = 0.0
        self._told = ""
        self._leaving: frozenset[str] = frozenset()

    def stop(self) -> None:
        """Drop what was planned: everybody was released."""
        if self._steps is not None:
            self._steps.close()
            self._steps = None
        self.exposed = ()

    def step(
        self, *, saved: int, merged: int, newcomers: int, leaving: frozenset[str] = frozenset()
    ) -> float:
        """Go on for one slice of time.

        Args:
            saved: what merging gives back on the node now, in bytes.
            merged: bytes that were merged since the agent began, whatever became of them.
            newcomers: containers enrolled since the agent began.
            leaving: cgroups of the containers that a release is going through: what a process of
                theirs had marked itself may have been marked again already.

        Returns:
            Seconds until the next step.
        """
        self._leaving = leaving
        if self._steps is None:
            glance = self._glance(saved, merged, newcomers)
            if not self._vigilance.is_due(self._last, time.monotonic(), glance):
                return self._vigilance.glance_seconds
            self._began, self._cpu_seconds = glance, 0.0
            self._steps = self._look()
        before = cpu_seconds()
        relief, wait = self._slice(self._steps)
        used = cpu_seconds() - before
        self._cpu_seconds += used
        self._metrics.cpu_seconds.inc(used)
        if relief is not None:
            self._steps = None
            self._conclude(relief)
        return wait

    def _slice(self, steps: Generator[float, None, Relief]) -> tuple[Relief | None, float]:
        """Return what was done, once it is, and the seconds to wait before going on."""
        ends = time.monotonic() + SLICE_SECONDS
        try:
            while True:
                wait = next(steps)
                if wait or time.monotonic() >= ends:
                    return None, wait
        except StopIteration as end:
            relief: Relief = end.value
            return relief, 0.0
        except KernelError as error:
            if self._told != str(error):  # a kernel that cannot tell never can
                self._told = str(error)
                log.warning("not known who pays for merged pages", extra={"error": self._told})
            return NOTHING_DONE, 0.0

    def _look(self) -> Generator[float, None, Relief]:
        """Look at the node, and break what has to be broken."""
        hierarchy = self._host.hierarchy
        for container in list(self._state.containers.values()):
            if container.path in self._leaving:
                continue  # the release finds out for itself whose children are left
            # Children that were forked since share pages with everybody whose parents do.
            known = {one.pid for one in container.enrolled | container.own}
            adopt_all(living_in(hierarchy, container.path, known), container)
            yield 0.0
        return (
            yield from relieve(
                self._members,
                self._is_breakable,
                self._host.tracer,
                Rooms(hierarchy, RESERVE_SHARE),
                marks_of=self._marks_of,
                keeps_flags=self._host.features.unmerge_keeps_flags is True,
            )
        )

    def _members(self) -> set[Process]:
        """Those on record. Who merges outside of the domain is not read: he could hold us up."""
        containers = self._state.containers.values()
        return set().union(*(one.enrolled | one.own for one in containers))

    def _is_breakable(self, process: Process) -> bool:
        """Whether a release brings it back to what it was, whatever it gave back before."""
        return any(
            process in one.enrolled
            for one in self._state.containers.values()
            if one.path not in self._leaving
        )

    def _marks_of(self, process: Process) -> Marks | None:
        """What is on record of one that is enrolled."""
        containers = self._state.containers.values()
        return next((one.marks.get(process) for one in containers if process in one.enrolled), None)

    def _glance(self, saved: int, merged: int, newcomers: int) -> Glance:
        sizes = {name: read_usage(file) for name, file in self._files.items()}
        used = {name: size for name, size in sizes.items() if size is not None}
        now, hierarchy = time.monotonic(), self._host.hierarchy
        if now >= self._next_limits:
            self._next_limits = now + self._vigilance.limits_seconds
            self._limits = {
                name: read_limits(hierarchy, hierarchy.path(name)) for name in self._limits
            }
        return Glance(saved, merged, newcomers, used, self._limits)

    def _conclude(self, relief: Relief) -> None:
        spare = {name: size for name, size in relief.spare.items() if name != NODE}
        hierarchy = self._host.hierarchy
        self._files = {name: usage_file(hierarchy, hierarchy.path(name)) for name in spare}
        before = self._began.beside(relief.levels)
        self._limits = dict(before.limits)
        self._last = Looked(time.monotonic(), self._cpu_seconds, before, spare)
        self._metrics.looks.inc()
        if not self._leaving:  # else the release may be about to help them
            # Nothing is outside of the node; what it lacks is its merge debt.
            self.exposed = tuple(one for one in relief.exposed if one.level != NODE)
            self._metrics.show_exposed(self.exposed)
        for process, size in relief.given_back.items():
            self._metrics.actions.inc()
            self._metrics.given_back.inc(size)
            self._host.given_back += size
            log.info("merged pages given back", extra={"pid": process.pid, "bytes": size})


def describe(exposed: Sequence[Exposed]) -> str:
    """Say which cgroups lack room because of others that share with them; empty for none."""
    names = sorted(one.level for one in exposed if one.shared_bytes)
    if not names:
        return ""
    # The end of a path tells a person which cgroup it is.
    first = f"cgroup …{names[0][-16:]}"
    who = first if len(names) == 1 else f"{len(names)} cgroups, first {first},"
    return f"{who} may lack room for what others share with it: raise its limit."
