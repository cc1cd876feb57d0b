"""Processes that are not enrolled: merging would harm them or what they rely on.

Most of them never. Some are left alone unless they ask (`BY_DEFAULT`).
"""

from __future__ import annotations

import os
import re
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.errors import KernelError, ProcessGone
from ksm_operator.kernel.ksm_stat import read_ksm_stat
from ksm_operator.kernel.procfs import (
    PROC,
    REALTIME_POLICIES,
    Process,
    check_alive,
    parse_count,
    read_stat,
    read_status,
    threads,
)
from ksm_operator.kernel.smaps import MERGEABLE, USERFAULTFD, Vma, read_vmas

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

LOCKED_TOLERANCE_BYTES: Final = 64 * 1024
"""Small locked pools are key stores of libraries; more is a program that must not fault."""

ELF_MAGIC: Final = b"\x7fELF"
ELF_CLASS_64: Final = 2


class SkipReason(StrEnum):
    """Why a process is not enrolled."""

    KERNEL_THREAD = "KernelThread"
    """Has no memory of its own."""
    THIRTY_TWO_BIT = "ThirtyTwoBit"
    """Its registers and system call numbers are others."""
    PAUSE = "Pause"
    """A pod's pause process: nothing to merge, and it holds the pod together."""
    LOCKED_MEMORY = "LockedMemory"
    """It locked memory so as never to wait for a page; a write to a merged page waits."""
    REAL_TIME = "RealTime"
    """A thread runs under a real-time policy, for the same reason."""
    USERFAULTFD = "Userfaultfd"
    """Merging loses its write-protect events."""
    VFIO = "Vfio"
    """A device reads and writes its memory by physical address."""
    CONFIDENTIAL_GUEST = "ConfidentialGuest"
    """It runs a guest whose memory is encrypted (SEV, TDX): equal content never looks equal."""
    VIRTUAL_MACHINE = "VirtualMachine"
    """Its memory is a guest's."""
    SANDBOXED = "Sandboxed"
    """It is gVisor's kernel: its programs' memory is a file's, which ksmd passes over."""
    EXCLUSIVE_CPUS = "ExclusiveCPUs"
    """It has CPUs for itself, so as never to wait; a write to a merged page waits. See
    `cpus_reason`: only the caller knows which CPUs are everybody's."""
    NON_DUMPABLE = "NonDumpable"
    """It forbids others to look at it, and we lack CAP_SYS_PTRACE over its user namespace."""
    HUGE_PAGES = "HugePages"
    """It lives in huge pages, which merging would split for too little; see `huge_pages`."""
    ALREADY_MERGEABLE = "AlreadyMergeable"
    """It asked for merging itself, or something else did on its behalf; it is left as it is."""


BY_DEFAULT: Final = frozenset(
    {SkipReason.VIRTUAL_MACHINE, SkipReason.SANDBOXED, SkipReason.EXCLUSIVE_CPUS}
)
"""Reasons that do not hold for who asks to merge: it does no harm, and is likely not wanted."""

HEXADECIMAL: Final = re.compile("[0-9a-f]+")
GVISOR: Final = "runsc"
"""Name of gVisor's program, which is its runtime and its kernel."""

DESCRIPTORS: Final = (
    ("anon_inode:[userfaultfd]", SkipReason.USERFAULTFD),
    ("/dev/userfaultfd", SkipReason.USERFAULTFD),
    ("/dev/vfio/*", SkipReason.VFIO),
    ("anon_inode:[vfio-device]", SkipReason.VFIO),
    ("anon_inode:vfio-device", SkipReason.VFIO),
    ("/dev/iommu", SkipReason.VFIO),
    ("/dev/vhost-vdpa-*", SkipReason.VFIO),
    # Only the host's side: /dev/sev-guest and /dev/tdx_guest are what a program inside has open.
    ("/dev/sev", SkipReason.CONFIDENTIAL_GUEST),
    ("anon_inode:[kvm-gmem]", SkipReason.CONFIDENTIAL_GUEST),
    ("/[kvm-gmem]*", SkipReason.CONFIDENTIAL_GUEST),
    ("anon_inode:kvm-vm", SkipReason.VIRTUAL_MACHINE),
)
"""What an open file points to (/proc/PID/fd), and what it tells; earlier rows win.

A name that ends with `*` is the beginning of many. Sources: the names that
anon_inode_getfile and misc devices get in fs/userfaultfd.c, drivers/vfio, drivers/iommu/iommufd,
drivers/vhost/vdpa.c, drivers/crypto/ccp/sev-dev.c, virt/kvm/kvm_main.c, virt/kvm/guest_memfd.c.
"""


def descriptor_reason(targets: Iterable[str]) -> SkipReason | None:
    """Judge by where the open files point to."""
    present = set(targets)
    for name, reason in DESCRIPTORS:
        beginning = name.removesuffix("*")
        if name in present or (
            beginning != name and any(target.startswith(beginning) for target in present)
        ):
            return reason
    return None


def status_reason(comm: str, status: Mapping[str, str]) -> SkipReason | None:
    """Judge by /proc/PID/status."""
    if comm == "pause" and status.get("NSpid", "").split()[-1:] == ["1"]:
        return SkipReason.PAUSE
    locked = parse_count(status.get("VmLck", "").removesuffix(" kB")) or 0
    if locked * 1024 > LOCKED_TOLERANCE_BYTES:
        return SkipReason.LOCKED_MEMORY
    return None


def cpus_reason(status: Mapping[str, str], shared: Iterable[int]) -> SkipReason | None:
    """Judge by the CPUs in /proc/PID/status.

    Args:
        status: its fields.
        shared: the CPUs that nobody has for himself.
    """
    # In groups of 32 bits, and as many of them as the kernel could ever have CPUs.
    digits = status.get("Cpus_allowed", "").replace(",", "")
    theirs = int(digits, 16) if HEXADECIMAL.fullmatch(digits) else 0
    if not theirs or any(theirs >> cpu & 1 for cpu in shared):
        return None
    return SkipReason.EXCLUSIVE_CPUS


def effective_user(status: Mapping[str, str]) -> int | None:
    """The effective user id in /proc/PID/status, the second of four; None if it is not there."""
    words = status.get("Uid", "").split()
    return parse_count(words[1]) if len(words) > 1 else None


def range_reason(vmas: Iterable[Vma]) -> SkipReason | None:
    """Judge by the flags of its ranges."""
    flags = frozenset[str]().union(*(vma.flags for vma in vmas))
    if flags & USERFAULTFD:
        return SkipReason.USERFAULTFD
    return SkipReason.ALREADY_MERGEABLE if MERGEABLE in flags else None


def why_not(process: Process, *, asked: bool = False, proc: Path = PROC) -> SkipReason | None:
    """Why this process must not be enrolled; None if it may.

    Reads smaps once, so its cost grows with the resident memory of the process.

    Args:
        process: who.
        asked: it is not left alone for a reason that holds by default only.
        proc: the proc file system.

    Raises:
        ProcessGone: it exited.
        KernelError: no right to look.
    """
    if check_alive(process, proc=proc).is_kernel_thread:
        return SkipReason.KERNEL_THREAD
    if read_ksm_stat(process, proc=proc).merge_any:
        return SkipReason.ALREADY_MERGEABLE
    return never(process, asked=asked, proc=proc) or range_reason(read_vmas(process, proc=proc))


def never(process: Process, *, asked: bool = False, proc: Path = PROC) -> SkipReason | None:
    """As `why_not`, without a look at its ranges: cheap, and blind to what they alone tell.

    A reason of `BY_DEFAULT` is given only if there is no other, and to nobody who asks.

    Raises:
        ProcessGone: it exited.
        KernelError: no right to look.
    """
    stat = check_alive(process, proc=proc)
    if stat.is_kernel_thread:
        return SkipReason.KERNEL_THREAD
    try:
        reason = (
            status_reason(stat.comm, read_status(process.pid, proc=proc))
            or (SkipReason.THIRTY_TWO_BIT if _is_32_bit(process, proc) else None)
            or (SkipReason.REAL_TIME if _is_real_time(process, proc) else None)
            or descriptor_reason(_descriptors(process, proc))
            or (SkipReason.SANDBOXED if _is_gvisor(process, proc) else None)
        )
    except PermissionError as error:
        if is_non_dumpable(process, proc=proc):
            return SkipReason.NON_DUMPABLE
        raise KernelError(
            f"process {process.pid} cannot be looked at ({error.strerror}): root with "
            "CAP_SYS_PTRACE is needed"
        ) from error
    return None if asked and reason in BY_DEFAULT else reason


def is_non_dumpable(process: Process, *, proc: Path = PROC) -> bool:
    """True if it forbids others to look at it: its files in /proc are not its own user's then.

    proc(5) gives them to root (of its user namespace); root's own processes do not show it.

    Raises:
        ProcessGone: it exited.
    """
    directory = f"{proc}/{process.pid}"
    try:
        owner = os.stat(directory + "/status").st_uid  # noqa: PTH116 - a plain path
    except OSError as error:
        raise ProcessGone(process.pid) from error
    effective = effective_user(read_status(process.pid, proc=proc))
    return effective is not None and owner != effective


def _is_32_bit(process: Process, proc: Path) -> bool:
    try:
        with (proc / str(process.pid) / "exe").open("rb") as program:
            header = program.read(5)
    except OSError:
        return False  # its registers are looked at again when it is stopped
    return header[:4] == ELF_MAGIC and header[4] != ELF_CLASS_64


def _is_gvisor(process: Process, proc: Path) -> bool:
    try:
        program = os.readlink(f"{proc}/{process.pid}/exe")  # noqa: PTH115 - a plain path
    except OSError:
        return False
    return program.rpartition("/")[2].removesuffix(" (deleted)") == GVISOR


def _is_real_time(process: Process, proc: Path) -> bool:
    for tid in threads(process.pid, proc=proc):
        try:
            if read_stat(process.pid, tid, proc=proc).policy in REALTIME_POLICIES:
                return True
        except ProcessGone:
            continue
    return False


def _descriptors(process: Process, proc: Path) -> Iterable[str]:
    directory = f"{proc}/{process.pid}/fd"
    try:
        names = os.listdir(directory)  # noqa: PTH208 - names only
    except PermissionError:
        raise
    except OSError as error:
        raise ProcessGone(process.pid) from error
    for name in names:
        try:
            yield os.readlink(f"{directory}/{name}")  # noqa: PTH115 - thousands of them
        except PermissionError:
            raise  # passed over, it would hide what must keep the process out
        except OSError:
            continue
