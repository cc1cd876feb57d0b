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

    from ksm_operator.agent.state import State
    from ksm_operator.kernel import Process


class Consent:
    """Whose pods ask, and who must go because his does not.

    Attributes:
        asked: cgroup paths of the containers whose pods ask.
        unwanted: cgroup paths of containers in which somebody is enrolled who is left alone by
            default. They are released as a whole, and enrolled again without him.
    """

    def __init__(self, state: State) -> None:
        """Know of nobody who asks."""
        self.unwanted: set[str] = set()
        self.asked: frozenset[str] = frozenset()
        self._state = state
        self._shared = _shared_cpus()

    def asks(self, path: str) -> bool:
        """Whether a container's pod asks for merging."""
        return path in self.asked

    def follow(self, asked: frozenset[str]) -> None:
        """Take whose pods ask now, and which CPUs are everybody's; cheap unless that has changed.

        Args:
            asked: cgroup paths of their containers.
        """
        unasked, self.asked = self.asked - asked, asked
        before, self._shared = self._shared, _shared_cpus()
        containers = self._state.containers
        self.unwanted &= containers.keys() - asked
        for path in unasked & containers.keys():
            self._judge(path)
        if self._shared < before:  # somebody was given CPUs for himself
            for path in containers.keys() - asked:
                self._judge(path)

    def why_not(self, path: str, status: Mapping[str, str]) -> SkipReason | None:
        """Why a process is left alone that nothing else excludes.

        Args:
            path: its container.
            status: the fields of its /proc/PID/status.
        """
        return None if self.asks(path) else cpus_reason(status, self._shared)

    def _judge(self, path: str) -> None:
        for process in self._state.containers[path].enrolled:
            try:
                if self._is_left_alone(path, process):
                    self.unwanted.add(path)
                    return
            except KernelError:
                continue

    def _is_left_alone(self, path: str, process: Process) -> bool:
        reason = never(process) or self.why_not(path, read_status(process.pid))
        return reason in BY_DEFAULT


def _shared_cpus() -> frozenset[int]:
    """The CPUs that no container has for itself: those of the agent.

    The kubelet's static CPU manager takes what it gives to one container away from all others.
    """
    return frozenset(os.sched_getaffinity(0))
