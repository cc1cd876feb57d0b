"""Whether a handler of the program is about to run, from /proc/TID/status; proc(5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ksm_operator.kernel.errors import KernelError
from ksm_operator.kernel.procfs import PROC, read_status

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def handles(status: Mapping[str, str], signal: int) -> bool:
    """True if a handler runs as soon as the thread of this status goes on.

    Args:
        status: its fields.
        signal: what is delivered to it then; 0 for nothing but what is pending already.
    """

    def signals(name: str) -> int:
        return int(status.get(name, "0"), 16)

    coming = (signals("SigPnd") | signals("ShdPnd")) & ~signals("SigBlk")
    if signal:
        coming |= 1 << (signal - 1)
    return bool(coming & signals("SigCgt"))


def runs_handler(pid: int, tid: int, signal: int, *, proc: Path = PROC) -> bool:
    """True if a handler runs as soon as this stopped thread goes on, with this signal.

    A thread that is traced is woken by signals that its program ignores, too.
    """
    try:
        return handles(read_status(pid, tid, proc=proc), signal)
    except (KernelError, OSError):
        return False
