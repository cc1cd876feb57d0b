"""On which CPUs a thread may run."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.errors import KernelError, ProcessGone

if TYPE_CHECKING:
    from collections.abc import Iterable

CPUS: Final = Path("/sys/devices/system/cpu")


def read_affinity(pid: int) -> frozenset[int]:
    """The CPUs on which a thread may run, of those that are online (sched_getaffinity).

    Args:
        pid: the thread; 0 for the caller.

    Raises:
        ProcessGone: there is no such thread.
    """
    try:
        return frozenset(os.sched_getaffinity(pid))
    except ProcessLookupError as error:
        raise ProcessGone(pid) from error


def write_affinity(pid: int, cpus: Iterable[int]) -> None:
    """Say on which CPUs a thread may run from now on.

    Raises:
        ProcessGone: there is no such thread.
        KernelError: no right to (CAP_SYS_NICE), or the thread is bound to its CPUs, or none of
            these is online.
    """
    wanted = frozenset(cpus)
    try:
        os.sched_setaffinity(pid, wanted)
    except ProcessLookupError as error:
        raise ProcessGone(pid) from error
    except (OSError, ValueError) as error:
        reason = errno.errorcode.get(getattr(error, "errno", None) or 0, str(error))
        raise KernelError(
            f"thread {pid} cannot be moved to CPUs {format_cpus(wanted)}: {reason}"
        ) from error


def is_online(cpu: int, *, directory: Path = CPUS) -> bool:
    """Whether a CPU is there and runs; one that cannot be switched off has no such file."""
    try:
        return (directory / f"cpu{cpu}/online").read_bytes().strip() == b"1"
    except OSError:
        return (directory / f"cpu{cpu}").is_dir()


def format_cpus(cpus: Iterable[int]) -> str:
    """CPUs as the kernel writes them: `0-3,8`."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
