"""Has ksmd forget those who left or ended: until it looked, it counts their pages as shared."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from ksm_operator.agent.knobs import Troubles
from ksm_operator.agent.settings import cleanup_values

if TYPE_CHECKING:
    from collections.abc import Callable

    from ksm_operator.agent.knobs import Knobs

log = logging.getLogger(__name__)

SECONDS: Final = 30.0
"""How long a clean-up scan may take."""
LEAST: Final = 1.0
"""ksmd forgets a process within one scan, and does not count a scan after which none is left."""
TICK: Final = 0.1
"""Seconds between two steps."""
WAY_SECONDS: Final = 10.0
"""How long merging waits at most for values that the kernel refuses while pages are shared."""


class Cleanup:
    """One scan while nobody of ours merges.

    Attributes:
        troubles: what could not be written for it.
    """

    def __init__(self, knobs: Knobs) -> None:
        self.troubles = Troubles()
        self._knobs = knobs
        self._begun: tuple[int, float] | None = None

    @property
    def is_going_on(self) -> bool:
        """Whether ksmd scans for it."""
        return self._begun is not None

    def forget(self) -> None:
        """Begin anew next time."""
        self._begun = None
        self.troubles = Troubles()

    def step(self, foreign: Callable[[], bool | None]) -> bool:
        """Go on with it.

        Args:
            foreign: asked before the scan: whether other processes merge too, whose pages it may
                not touch; None while that is not known.

        Returns:
            Whether it is over: ksmd counts no page as shared, or it cannot be brought to.
        """
        if "run" in self._knobs.state.yielded:
            return True
        if self._begun is None and (others := foreign()) is not False:
            return others is not None
        values = self._knobs.read()
        now = time.monotonic()
        # Again and again: a write may have had to wait for ksmd.
        self.troubles = self._knobs.apply(cleanup_values())
        if self._begun is None:
            self._begun = (values.full_scans or 0, now)
            return False
        scans, since = self._begun
        scanned = (values.full_scans or 0) > scans or now - since > LEAST
        if (scanned and not values.pages_shared) or now - since > SECONDS:
            log.info("cleaned up", extra={"pagesShared": values.pages_shared or 0})
            return True
        return False


class Way:
    """The way for values that the kernel refuses while pages are shared.

    Pages of processes that ended, or that were released for another policy, count as shared until
    ksmd looks for them. It is made once for each edition of a policy, before anybody merges.
    """

    def __init__(self, cleanup: Cleanup) -> None:
        self._cleanup = cleanup
        self._until: float | None = None
        self._is_made = False

    @property
    def is_being_made(self) -> bool:
        """Whether a clean-up scan goes on for it."""
        return self._until is not None

    def forget(self) -> None:
        """Make it anew: there are other values to write."""
        self._is_made = False

    def stop(self) -> None:
        """Nobody is to merge any more."""
        self._until = None

    def is_clear(self, *, refused: bool, merging: bool) -> bool:
        """Tell whether nothing has to be done for it; once so, until `forget`.

        Args:
            refused: the kernel has refused a value.
            merging: somebody of ours has merged already, so that it would be in vain.
        """
        if self._until is None and (not refused or merging):
            self._is_made = True
        return self._is_made

    def step(self, foreign: Callable[[], bool | None]) -> bool:
        """Go on with it; tell whether that is over.

        Args:
            foreign: as of `Cleanup.step`.
        """
        now = time.monotonic()
        if self._until is None:
            self._until = now + WAY_SECONDS
        if not self._cleanup.step(foreign) and now < self._until:
            return False
        self._until, self._is_made = None, True
        self._cleanup.forget()
        return True
