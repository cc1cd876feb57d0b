"""Keeps ksmd off CPUs that a container has for itself.

The kubelet's static CPU manager takes such CPUs away from every container that has not asked for
whole ones, and gives them back later. The agent is one of these (it requests 10m), so the CPUs
that are left to it are the node's shared ones, and ksmd is kept on them too. Where nobody has CPUs
for himself, the agent may run on all, and ksmd is left as it is.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Final

from ksm_operator.agent.state import SavedCpus
from ksm_operator.kernel import (
    KernelError,
    format_cpus,
    is_online,
    read_affinity,
    write_affinity,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ksm_operator.agent.state import State

log = logging.getLogger(__name__)

AFFINITY: Final = "affinity"
"""What it is called among the things that somebody else changed."""


def choose(before: frozenset[int], shared: frozenset[int]) -> frozenset[int]:
    """Return where ksmd may run, of where it might before us. Pure.

    All that it might, if it shares no CPU with the agent: somebody has pinned it elsewhere.
    """
    return before & shared or before


class Affinity:
    """Moves ksmd, and puts it back."""

    def __init__(
        self,
        ksmd: int | None,
        state: State,
        save: Callable[[], None],
        shared: Callable[[], frozenset[int]] = lambda: read_affinity(0),
    ) -> None:
        """Be ready.

        Args:
            ksmd: its pid; None if it cannot be seen, and is left alone.
            state: where it is kept how ksmd was before.
            save: makes that last.
            shared: asked for the CPUs that nobody has for himself.
        """
        self._ksmd = ksmd
        self._state = state
        self._save = save
        self._shared = shared
        self._told = ""

    def adopt(self) -> None:
        """After a restart: take where ksmd is for our doing, if it might be there before us.

        The last agent may have ended between its record and the move, or in the middle of a
        restore.
        """
        saved = self._state.affinity
        if self._ksmd is None or saved is None or AFFINITY in self._state.yielded:
            return
        with contextlib.suppress(KernelError):
            now = read_affinity(self._ksmd)
            if now <= saved.before:
                self._state.affinity = SavedCpus(saved.before, now)

    def keep(self) -> None:
        """Have ksmd where it may be now; a few system calls unless something has changed."""
        if self._ksmd is None or AFFINITY in self._state.yielded:
            return
        try:
            self._keep(self._ksmd)
        except KernelError as error:
            if str(error) != self._told:
                self._told = str(error)
                log.warning("ksmd stays on its CPUs", extra={"error": self._told})

    def _keep(self, ksmd: int) -> None:
        now, saved = read_affinity(ksmd), self._state.affinity
        if saved is not None and _is_foreign(now, saved.written):
            self._state.yielded.add(AFFINITY)
            self._save()
            log.warning(
                "somebody else moved ksmd; it is left there until the policy is edited",
                extra={"ours": format_cpus(saved.written), "theirs": format_cpus(now)},
            )
            return
        before = saved.before if saved is not None else now
        wanted = choose(before, self._shared())
        if wanted == (saved.written if saved is not None else before):
            return
        self._state.affinity = SavedCpus(before, wanted)
        self._save()
        try:
            write_affinity(ksmd, wanted)
        except KernelError:
            self._state.affinity = saved
            self._save()
            raise
        log.info("ksmd moved", extra={"cpus": format_cpus(wanted)})

    def reclaim(self) -> None:
        """Take it back from whoever moved it: the policy was edited since. Before `Knobs`."""
        saved = self._state.affinity
        if AFFINITY in self._state.yielded and saved is not None and self._ksmd is not None:
            self._state.affinity = SavedCpus(saved.before, read_affinity(self._ksmd))
        self._state.yielded.discard(AFFINITY)

    def restore(self) -> tuple[str, ...]:
        """Put ksmd back to where it was before us.

        Returns:
            `AFFINITY` if it is left alone, because somebody else moved it since; else nothing.

        Raises:
            KernelError: it cannot be moved.
        """
        saved = self._state.affinity
        if saved is None or self._ksmd is None:
            return ()
        now = read_affinity(self._ksmd)
        if now == saved.before:
            return ()
        if AFFINITY in self._state.yielded or _is_foreign(now, saved.written):
            return (AFFINITY,)
        write_affinity(self._ksmd, saved.before)
        log.info("ksmd moved back", extra={"cpus": format_cpus(saved.before)})
        return ()


def _is_foreign(now: frozenset[int], written: frozenset[int]) -> bool:
    """Whether this is not what was written, CPUs that went offline since aside."""
    return bool(now - written) or any(is_online(cpu) for cpu in written - now)
