"""Keeps a thread that reads much memory below a share of a core."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.memory_lock import cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

LEAST_SECONDS: Final = 0.005
"""Worked before a pause: shorter ones would be spent on waking up."""


class Abandoned(Exception):  # noqa: N818 - no error: nobody waits for the answer any more
    """What the thread works on is not wanted any more."""


def rest(used: float, share: float) -> float:
    """Seconds to pause after so many of CPU time, so that they are this share of a core. Pure."""
    return used * (1 / share - 1)


class Duty:
    """Called now and then by the thread that it is for, after short pieces of work."""

    def __init__(self, share: Callable[[], float], is_wanted: Callable[[], bool]) -> None:
        """Begin.

        Args:
            share: of one core, more than 0 and at most 1, asked before each pause.
            is_wanted: whether to go on at all.
        """
        self._share = share
        self._is_wanted = is_wanted
        self._since: float | None = None

    def __call__(self) -> None:
        """Pause if that is due.

        Raises:
            Abandoned: the work is not wanted any more.
        """
        if not self._is_wanted():
            raise Abandoned
        now = cpu_seconds()
        if self._since is None:
            self._since = now
        elif now - self._since >= LEAST_SECONDS:
            time.sleep(rest(now - self._since, self._share()))
            self._since = cpu_seconds()
