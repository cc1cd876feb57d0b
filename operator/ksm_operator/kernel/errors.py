"""What can go wrong between us and the kernel.

::

    KernelError
    ├── ProcessGone        it exited, or its pid now belongs to another process
    ├── Postponed          not now, for a reason that passes: try again later
    ├── Refused            never: this process is excluded, and why
    ├── Unsupported        this kernel or machine cannot do it; nothing was touched
    ├── RemoteCallFailed   the target ran the call and the kernel answered with an error
    └── SysfsError         a file under /sys/kernel/mm/ksm
        ├── SysfsReadOnly  mounted read-only, or no permission
        ├── SysfsBusy      EBUSY: not while pages are shared
        └── SysfsInvalid   EINVAL, or a value outside the file's range
"""
# ruff: noqa: N818
# These name what happened to the target, and most are no error of anybody's.

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class KernelError(Exception):
    """Base of everything this package raises on purpose."""


class ProcessGone(KernelError):
    """The process exited, or its pid was given to another one.

    Attributes:
        pid: the process id that was asked for.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(f"process {pid} is gone")
        self.pid = pid


class Postponed(KernelError):
    """Not possible at this moment; the same request may succeed later. Nothing was changed.

    Attributes:
        pid: the process it was about.
        reason: one PascalCase word, to be counted and shown.
    """

    def __init__(self, pid: int, reason: str, detail: str = "") -> None:
        super().__init__(f"process {pid}: {reason}" + (f": {detail}" if detail else ""))
        self.pid = pid
        self.reason = reason


class Refused(KernelError):
    """This process is never enrolled.

    Attributes:
        pid: the process it was about.
        reason: a `SkipReason` value.
    """

    def __init__(self, pid: int, reason: str, detail: str = "") -> None:
        super().__init__(f"process {pid} is excluded: {reason}" + (f": {detail}" if detail else ""))
        self.pid = pid
        self.reason = reason


class Unsupported(KernelError):
    """This kernel or machine cannot do what was asked; nothing was touched."""


class RemoteCallFailed(KernelError):
    """The target made the call and the kernel refused it.

    Attributes:
        pid: the process that made the call.
        call: name of the system call, with what was asked.
        errno: the kernel's answer, positive.
    """

    def __init__(self, pid: int, call: str, error: int) -> None:
        name = errno.errorcode.get(error, str(error))
        super().__init__(f"process {pid}: {call} answered {name}: {os.strerror(error)}")
        self.pid = pid
        self.call = call
        self.errno = error


class SysfsError(KernelError):
    """A file of ksmd could not be read or written.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path


class SysfsReadOnly(SysfsError):
    """The file system is mounted read-only or the caller may not write."""


class SysfsBusy(SysfsError):
    """The kernel refuses this while pages are shared (EBUSY): release first."""


class SysfsHeldUp(SysfsError):
    """ksmd waits for a process and does not come to the end of its batch: later."""


class SysfsInvalid(SysfsError):
    """The value is outside the file's range, or not allowed in the present mode (EINVAL)."""
