"""Finds out what only a running ksmd can show: whether it merges a program after an exec."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel import KernelError, probe_exec

if TYPE_CHECKING:
    from ksm_operator.agent.host import Host

log = logging.getLogger(__name__)

SECONDS: Final = 60.0
"""Patience with a ksmd that scans slowly; the next trial begins from the start."""


class ExecTrial:
    """Tries it on two children of ours, in a thread, until there is an answer."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._thread: threading.Thread | None = None
        self._answer: bool | None = None
        self._stopped = threading.Event()

    def go_on(self) -> None:
        """Take the answer if it is there, else see that somebody is looking for it.

        To be called now and then while ksmd is at work for us.
        """
        features = self._host.features
        if not features.exec_inherits or features.exec_merges is not None:
            return
        if self._answer is not None:
            self._host.features = replace(features, exec_merges=self._answer)
            log.info("found out whether exec keeps merging", extra={"merges": self._answer})
        elif self._thread is None or not self._thread.is_alive():
            self._stopped.clear()
            self._thread = threading.Thread(target=self._run, name="exec trial", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Have its children end soon: while they live, pages are shared. `go_on` begins anew."""
        self._stopped.set()

    def _run(self) -> None:
        try:
            self._answer = probe_exec(self._host.sysfs, SECONDS, stopped=self._stopped.is_set)
        except (KernelError, OSError) as error:
            log.warning("not found out: whether exec keeps merging", extra={"error": str(error)})
