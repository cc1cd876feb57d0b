"""Who is never enrolled, as decided from text."""

from pathlib import Path

import pytest

from ksm_operator.kernel import AgentLock, SkipReason
from ksm_operator.kernel.exclusions import (
    DESCRIPTORS,
    cpus_reason,
    descriptor_reason,
    range_reason,
    status_reason,
)
from ksm_operator.kernel.smaps import Vma


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("anon_inode:[userfaultfd]", SkipReason.USERFAULTFD),
        ("/dev/userfaultfd", SkipReason.USERFAULTFD),
        ("/dev/vfio/12", SkipReason.VFIO),
        ("/dev/vfio/vfio", SkipReason.VFIO),
        ("/dev/vfio/devices/vfio0", SkipReason.VFIO),
        ("anon_inode:[vfio-device]", SkipReason.VFIO),
        ("anon_inode:vfio-device", SkipReason.VFIO),
        ("/dev/iommu", SkipReason.VFIO),
        ("/dev/vhost-vdpa-0", SkipReason.VFIO),
        ("/dev/sev", SkipReason.CONFIDENTIAL_GUEST),
        ("anon_inode:[kvm-gmem]", SkipReason.CONFIDENTIAL_GUEST),
        ("/[kvm-gmem] (deleted)", SkipReason.CONFIDENTIAL_GUEST),
        ("anon_inode:kvm-vm", SkipReason.VIRTUAL_MACHINE),
        ("anon_inode:[eventpoll]", None),
        ("anon_inode:kvm-vcpu:0", None),
        ("/dev/kvm", None),
        ("/dev/vhost-net", None),
        ("/dev/sev-guest", None),
        ("/dev/tdx_guest", None),
        ("/dev/vfio", None),
    ],
)
def test_open_files_tell(target: str, reason: SkipReason | None) -> None:
    """One such file among others is enough; only having opened /dev/kvm is no guest."""
    assert descriptor_reason(["socket:[1]", target, "pipe:[2]"]) is reason


def test_every_row_of_the_table_is_told() -> None:
    """A row that an earlier one hides would never be counted under its own name."""
    for name, reason in DESCRIPTORS:
        assert descriptor_reason([name.replace("*", "x")]) is reason


def test_what_may_never_be_enrolled_outweighs_what_is_skipped_by_default() -> None:
    """A guest with a device of its own stays out, also where guests are asked for."""
    guest = ["anon_inode:kvm-vm", "/dev/vfio/7"]
    assert descriptor_reason(guest) is descriptor_reason(guest[::-1]) is SkipReason.VFIO


def test_locked_memory_has_a_small_tolerance() -> None:
    """A key store of a library is not a program that must never fault."""
    assert status_reason("x", {"VmLck": "64 kB"}) is None
    assert status_reason("x", {"VmLck": "65 kB"}) is SkipReason.LOCKED_MEMORY
    assert status_reason("x", {}) is None
    assert status_reason("x", {"VmLck": ""}) is None


@pytest.mark.parametrize(
    ("mask", "shared", "reason"),
    [
        ("c", {0, 1}, SkipReason.EXCLUSIVE_CPUS),
        ("e", {0, 1}, None),
        ("f", {0, 1, 2, 3}, None),
        ("00000004,00000000", {0, 1}, SkipReason.EXCLUSIVE_CPUS),
        ("00000004,00000000", {34}, None),
        ("ff," + "00000000," * 255 + "00000000", set(range(4)), SkipReason.EXCLUSIVE_CPUS),
        ("", {0}, None),
        ("0", {0}, None),
        ("-1", {0}, None),
        ("many", {0}, None),
    ],
)
def test_cpus_of_ones_own(mask: str, shared: set[int], reason: SkipReason | None) -> None:
    """Whoever may run where the agent may has no CPU for himself, however few he may run on."""
    assert cpus_reason({"Cpus_allowed": mask}, shared) is reason


def test_pause_is_pid_1_of_its_namespace() -> None:
    """A program that happens to have the name is not a pod's pause."""
    assert status_reason("pause", {"NSpid": "812\t1"}) is SkipReason.PAUSE
    assert status_reason("pause", {"NSpid": "812"}) is None
    assert status_reason("pause", {"NSpid": "812\t7"}) is None


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        ("um", SkipReason.USERFAULTFD),
        ("uw", SkipReason.USERFAULTFD),
        ("ui", SkipReason.USERFAULTFD),
        ("mg", SkipReason.ALREADY_MERGEABLE),
        ("rd", None),
    ],
)
def test_ranges_tell(flag: str, reason: SkipReason | None) -> None:
    """The descriptor may be in another process; the range keeps the mark."""
    ranges = [Vma(0, 4096, "", frozenset({flags}), 0, 0, 0) for flags in ("rd", flag)]
    assert range_reason(ranges) is reason


def test_agent_lock_is_held_by_one(tmp_path: Path) -> None:
    """Two changers on one node would undo each other."""
    path = tmp_path / "run" / "lock"
    one, two = AgentLock(path), AgentLock(path)
    assert one.acquire()
    assert one.acquire()
    assert not two.acquire()
    one.release()
    assert two.acquire()
    two.release()
