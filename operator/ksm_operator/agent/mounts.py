"""The whole memory hierarchy, where the agent's container shows only a part of it.

A runtime mounts into a container that container's own cgroup. The host's mounts are reached
through pid 1 where that is permitted; else the agent mounts the hierarchy once more for itself.
The mount is made in a mount namespace of the agent's own: nobody else sees it, and it goes with
the agent.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
from pathlib import Path
from typing import Final

from ksm_operator.kernel import (
    Hierarchy,
    KernelError,
    find_memory_hierarchy,
    join_host_cgroup_namespace,
)

HOST_CGROUP_NAMESPACE: Final = "cgroup:[4026531835]"
"""The first cgroup namespace has a fixed number (PROC_CGROUP_INIT_INO, include/linux/proc_ns.h)."""
CLONE_NEWNS: Final = 0x00020000
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x40000


def see_host_cgroups() -> None:
    """See cgroup paths as the host does. Call it before any thread is started.

    Raises:
        KernelError: not permitted.
    """
    if os.readlink("/proc/self/ns/cgroup") != HOST_CGROUP_NAMESPACE:  # noqa: PTH115 - not a path
        join_host_cgroup_namespace()


def whole_memory_hierarchy() -> Hierarchy:
    """Return the memory hierarchy from its root on. Call it before any thread is started.

    Raises:
        KernelError: there is none, or it cannot be mounted.
    """
    found = find_memory_hierarchy()
    if found.root == "/":
        return found
    directory = tempfile.mkdtemp(prefix="ksm-agent-cgroup-")
    kind, options = ("cgroup", "memory") if found.version == 1 else ("cgroup2", "")
    libc = ctypes.CDLL(None, use_errno=True)
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    done = (
        libc.unshare(CLONE_NEWNS) == 0
        and libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None) == 0
        and libc.mount(
            kind.encode(),
            directory.encode(),
            kind.encode(),
            ctypes.c_ulong(flags),
            options.encode(),
        )
        == 0
    )
    if not done:
        error = os.strerror(ctypes.get_errno())
        Path(directory).rmdir()
        raise KernelError(
            f"the memory hierarchy shows only {found.root} and mounting all of it failed: {error}. "
            "The agent's pod must be privileged"
        )
    return Hierarchy(found.version, Path(directory))
