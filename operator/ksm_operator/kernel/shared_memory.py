"""Whether two processes have one memory: made by clone(CLONE_VM) or vfork, as some runtimes do.

Merging is a property of the memory, so what is done to one of them is done to the other.
"""

from __future__ import annotations

import ctypes
import platform
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.procfs import is_alive

if TYPE_CHECKING:
    from ksm_operator.kernel.procfs import Process

KCMP: Final = {"x86_64": 312, "aarch64": 272}
"""The call's number; it needs CONFIG_KCMP, which seccomp's and DRM's users have."""
KCMP_VM: Final = 1

_libc: Final = ctypes.CDLL(None)


def share_memory(one: Process, other: Process) -> bool:
    """Tell whether two processes have one memory map; False as well where that cannot be told."""
    number = KCMP.get(platform.machine())
    if number is None:
        return False
    same = _libc.syscall(ctypes.c_long(number), one.pid, other.pid, KCMP_VM, 0, 0) == 0
    # Their pids may have been given to others before the call.
    return same and is_alive(one) and is_alive(other)
