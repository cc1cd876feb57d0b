"""ksmd's files for one that must not be held up by whom ksmd waits for.

A write to some of them waits for ksmd's batch to end (`ksm_thread_mutex`, mm/ksm.c), and ksmd waits
in it for the memory lock of the process that it looks at, which that process can hold for as long
as it likes. So does a write while memory goes offline. Nothing ends such a wait, not even SIGKILL.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.errors import KernelError, SysfsHeldUp
from ksm_operator.kernel.sysfs import KSM_ROOT, KsmSysfs

if TYPE_CHECKING:
    from pathlib import Path

WAITS_FOR_KSMD: Final = frozenset({"run", "merge_across_nodes", "max_page_sharing"})
SECONDS: Final = 1.0
"""How long a write is waited for."""


class PatientSysfs(KsmSysfs):
    """The same files; a write that takes long goes on by itself, in a thread."""

    def __init__(self, root: Path = KSM_ROOT, seconds: float = SECONDS) -> None:
        super().__init__(root)
        self._seconds = seconds
        self._thread: threading.Thread | None = None
        self._name = ""
        self._failures: list[KernelError] = []

    @property
    def unfinished(self) -> str:
        """The file whose last write goes on yet; empty for none."""
        return self._name if self._thread is not None and self._thread.is_alive() else ""

    @property
    def failed(self) -> bool:
        """Whether the last write to a file that waits for ksmd has ended, and was refused."""
        return bool(self._failures) and not self.unfinished

    def write(self, name: str, value: int | str) -> None:
        """As `KsmSysfs.write`.

        Raises:
            SysfsHeldUp: this write goes on yet; or, if one was `unfinished` before, that one does,
                and this one was not begun.
        """
        if name not in WAITS_FOR_KSMD:
            super().write(name, value)
            return
        if self.unfinished:
            raise SysfsHeldUp(self.root / name, f"not written: {self._name} waits for ksmd")
        failures = self._failures = []
        write = super().write

        def work() -> None:
            try:
                write(name, value)
            except KernelError as error:
                failures.append(error)

        self._name = name
        self._thread = threading.Thread(target=work, name=f"writes {name}", daemon=True)
        self._thread.start()
        self._thread.join(self._seconds)
        if self._thread.is_alive():
            raise SysfsHeldUp(self.root / name, "not written yet: ksmd waits for some process")
        if failures:
            raise failures[0]
