"""The machine that the agent runs on, found once at start."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ksm_operator.agent.mounts import see_host_cgroups, whole_memory_hierarchy
from ksm_operator.agent.reading import broken
from ksm_operator.kernel import (
    Helper,
    Hierarchy,
    KernelError,
    KernelFeatures,
    KsmSysfs,
    PatientSysfs,
    ProcessGone,
    SysfsReadOnly,
    find_ksmd,
    find_writable_root,
    ksmd_cpu_ns,
    probe,
    read_vmstat,
)
from ksm_operator.kernel import boot_id as read_boot_id

if TYPE_CHECKING:
    from ksm_operator.kernel import Process

PROC: Final = Path("/proc")
HOST_PID_NAMESPACE: Final = "pid:[4026531836]"
"""The first pid namespace has a fixed number (PROC_PID_INIT_INO, include/linux/proc_ns.h)."""


class Obstacle(Exception):  # noqa: N818 - what stands in the way, not an error of the agent's
    """Nothing can be done on this node; nothing was touched.

    Attributes:
        reason: a condition reason.
        features: what the kernel can, if it got as far as asking.
    """

    def __init__(self, reason: str, message: str, features: KernelFeatures | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.features = features


@dataclass(slots=True)
class Host:
    """What the agent works with.

    Attributes:
        sysfs: ksmd's files.
        hierarchy: the memory cgroups of the host.
        features: what the kernel can; replaced when more of it is found out.
        tracer: makes processes run system calls, in a process of its own.
        boot_time: when the kernel started, seconds since the epoch.
        ksmd: pid of ksmd; None if it cannot be seen.
        given_back: bytes of merged memory that we had processes give back.
    """

    sysfs: KsmSysfs
    hierarchy: Hierarchy
    features: KernelFeatures
    tracer: Helper
    boot_time: float
    ksmd: int | None
    given_back: int = 0
    _breaks: int = field(default=0, init=False)

    def breaks(self, page_size: int) -> int:
        """Return the merged pages that were written to since boot, as `Reading.breaks`."""
        counted = read_vmstat().get("cow_ksm", 0)
        self._breaks = broken(self._breaks, counted, self.given_back // page_size)
        return self._breaks

    def started_at(self, process: Process) -> float:
        """Return when a process started, in seconds since the epoch."""
        return self.boot_time + process.start_time / os.sysconf("SC_CLK_TCK")

    def ksmd_cpu_ns(self) -> int:
        """Return the CPU time of ksmd since boot; 0 if it cannot be seen."""
        if self.ksmd is None:
            return 0
        try:
            return ksmd_cpu_ns(self.ksmd)
        except ProcessGone:
            return 0


def open_host() -> Host:
    """Find everything. Call it before any thread is started: a namespace is joined.

    Raises:
        Obstacle: this machine cannot do it, or the agent lacks what it needs to.
    """
    check_pid_namespace()
    try:
        see_host_cgroups()
        hierarchy = whole_memory_hierarchy()
        features = probe()
        if features.unsupported is not None:
            raise Obstacle("Unsupported", features.unsupported, features)
        return Host(
            sysfs=PatientSysfs(find_writable_root()),
            hierarchy=hierarchy,
            features=features,
            tracer=Helper(),
            boot_time=boot_time(),
            ksmd=find_ksmd(),
        )
    except SysfsReadOnly as error:
        raise Obstacle("SysfsReadOnly", str(error)) from error
    except (KernelError, OSError) as error:
        raise Obstacle("Unsupported", str(error)) from error


def check_pid_namespace(proc: Path = PROC) -> None:
    """Make sure that the host's processes are seen under their own ids.

    Raises:
        Obstacle: the agent runs in a pid namespace of its own.
    """
    mine = os.readlink(proc / "self/ns/pid")  # noqa: PTH115 - not a path
    if mine != HOST_PID_NAMESPACE:
        raise Obstacle(
            "Unsupported",
            f"the agent runs in pid namespace {mine} and cannot see the node's processes: "
            "its pod needs hostPID: true, and the node must not be a container itself",
        )


def boot_time() -> float:
    """Return when the kernel started, in seconds since the epoch."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Return the id of this boot."""
    return read_boot_id()
