"""Who is left alone unless its pod asks for merging, of those that specs say nothing about.

docs/design/left-alone.md says why; `default_skips` has the pods that specs tell of.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ksm_operator.kernel import KernelError, SkipReason, read_status
from ksm_operator.kernel.exclusions import BY_DEFAULT, cpus_reason, never

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from ksm_operator.agent.state import State
    from ksm_operator.kernel import Process


class Consent:
    """Whose pods ask, and who must go because his does not.

    Attributes:
        asked: cgroup paths of the containers whose pods ask.
        shared: the CPUs that no container has for itself.
        unwanted: who is enrolled and is left alone by default, by the cgroup path of his container.
            He does no harm where he is, so he is released as others are, in his time.
    """

    def __init__(self, state: State) -> None:
        """Know of nobody who asks."""
        self.asked: frozenset[str] = frozenset()
        self.shared = _shared_cpus()
        self.unwanted: dict[str, set[Process]] = {}
        self._state = state

    def asks(self, path: str) -> bool:
        """Whether a container's pod asks for merging."""
        return path in self.asked

    def follow(self, asked: frozenset[str], unasked: AbstractSet[str]) -> None:
        """Take whose pods ask now, and which CPUs are everybody's; cheap unless that has changed.

        Args:
            asked: cgroup paths of their containers.
            unasked: those of the containers whose pods do not. A container of whose pod nothing is
                known (yet, or any more) is in neither, and stays as it is.
        """
        containers = self._state.containers
        before = self.asked
        self.asked = asked | (before & containers.keys() - unasked)
        had, self.shared = self.shared, _shared_cpus()
        enrolled = {path: containers[path].enrolled for path in unasked & containers.keys()}
        if self.shared != had:
            # Who was left alone for the CPUs may be so no more.
            self._judge({path: set(them) for path, them in self.unwanted.items()})
        if had - self.shared:  # somebody was given some of them
            self._judge(enrolled, by_cpus_alone=True)
        self._judge({path: enrolled[path] for path in before & enrolled.keys()})
        self.unwanted = {
            path: still
            for path, them in self.unwanted.items()
            if (still := them & enrolled.get(path, set()))
        }

    def why_not(self, path: str, status: Mapping[str, str]) -> SkipReason | None:
        """Why a process is left alone that nothing else excludes.

        Args:
            path: its container.
            status: the fields of its /proc/PID/status.
        """
        return None if self.asks(path) else cpus_reason(status, self.shared)

    def is_unwanted(self, path: str, process: Process) -> bool:
        """Whether a process is to be released because its pod does not ask."""
        return process in self.unwanted.get(path, ())

    def let_go(self, path: str, process: Process) -> None:
        """Have a process released that is left alone by default."""
        self.unwanted.setdefault(path, set()).add(process)

    def _judge(self, processes: Mapping[str, set[Process]], *, by_cpus_alone: bool = False) -> None:
        """Judge enrolled processes anew; by their CPUs alone costs a tenth."""
        for path, them in processes.items():
            for process in them:
                try:
                    reason = self.why_not(path, read_status(process.pid))
                    if reason is None and not by_cpus_alone:
                        reason = never(process)
                except KernelError:
                    continue
                if reason in BY_DEFAULT:
                    self.let_go(path, process)
                elif not by_cpus_alone and self.is_unwanted(path, process):
                    self.unwanted[path].discard(process)


def _shared_cpus() -> frozenset[int]:
    """The CPUs that no container has for itself: those of the agent.

    The kubelet's static CPU manager takes what it gives to one container away from all others.
    """
    return frozenset(os.sched_getaffinity(0))
