"""tracefs, where no container has it mounted: a mount that is in no namespace and has no path.

fsopen(2) and fsmount(2) (Linux 5.2) give a descriptor of it. Nobody else sees the mount, and it
goes with the descriptor. Needs CAP_SYS_ADMIN on the host.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

from ksm_operator.kernel.errors import Unsupported

FSOPEN: Final = 430
FSCONFIG: Final = 431
FSMOUNT: Final = 432
"""Numbers of new calls are the same on every machine (include/uapi/asm-generic/unistd.h)."""
FSOPEN_CLOEXEC: Final = 1
FSCONFIG_CMD_CREATE: Final = 6
FSMOUNT_CLOEXEC: Final = 1
MOUNT_ATTR_NOSUID_NODEV_NOEXEC: Final = 0x2 | 0x4 | 0x8

_libc: Final = ctypes.CDLL(None, use_errno=True)


def mount_tracefs() -> int:
    """A descriptor of the root directory of tracefs; to be closed by the caller.

    Raises:
        Unsupported: this kernel has no tracing, or it is not permitted (lockdown, no capability).
    """
    context = _call("fsopen", FSOPEN, ctypes.c_char_p(b"tracefs"), FSOPEN_CLOEXEC)
    try:
        _call("fsconfig", FSCONFIG, context, FSCONFIG_CMD_CREATE, None, None, 0)
        flags = MOUNT_ATTR_NOSUID_NODEV_NOEXEC
        return _call("fsmount", FSMOUNT, context, FSMOUNT_CLOEXEC, flags)
    finally:
        os.close(context)


def _call(name: str, number: int, *arguments: object) -> int:
    result: int = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise Unsupported(f"tracefs cannot be mounted: {name}: {os.strerror(ctypes.get_errno())}")
    return result
