"""Which method a process is enrolled by, from what a probe found and what the process maps."""

from dataclasses import replace

import pytest

from ksm_operator.kernel import KernelFeatures
from ksm_operator.kernel.enrol import LARGE_RESERVATION_BYTES, MANY_RANGES, method_for
from ksm_operator.kernel.mergeable import marks_everything
from ksm_operator.kernel.smaps import Vma

NEW = KernelFeatures(
    release="6.18.0",
    machine="x86_64",
    has_ksm=True,
    method="Prctl",
    unsupported=None,
    fork_inherits=True,
    exec_inherits=True,
    exec_merges=True,
    new_ranges_join=True,
    scan_skips_holes=True,
    unmerge_keeps_flags=True,
    ksm_stat_shows_flag=True,
    has_general_profit=True,
    has_advisor=True,
    has_smart_scan=True,
    smaps_shows_merged=True,
    has_fanotify=True,
    can_suspend_seccomp=True,
    cgroup_version=2,
)
PLAIN = Vma(0, 4096, "", frozenset(), 4096, 4096, 0)
MANY = [PLAIN] * (MANY_RANGES + 1)
RESERVED = [replace(PLAIN, end=LARGE_RESERVATION_BYTES + 2 * 4096)]
UNTOUCHED = [replace(RESERVED[0], rss_bytes=0, anonymous_bytes=0)]


@pytest.mark.parametrize(
    ("features", "vmas", "method"),
    [
        (NEW, [PLAIN], "Prctl"),
        (NEW, MANY, "Prctl"),
        (NEW, RESERVED, "Prctl"),
        (replace(NEW, method="Madvise"), [PLAIN], "Madvise"),
        (replace(NEW, new_ranges_join=False), [PLAIN], "Prctl"),
        (replace(NEW, new_ranges_join=False), MANY, "Madvise"),
        (replace(NEW, scan_skips_holes=False), RESERVED, "Madvise"),
        (replace(NEW, scan_skips_holes=None), RESERVED, "Madvise"),
        (replace(NEW, scan_skips_holes=False), UNTOUCHED, "Prctl"),
        (replace(NEW, scan_skips_holes=False), [PLAIN], "Prctl"),
    ],
)
def test_the_prctl_unless_it_would_hurt(
    features: KernelFeatures, vmas: list[Vma], method: str
) -> None:
    """It is inherited and needs no second visit, so only harm speaks against it."""
    assert method_for(features, vmas) == method


def test_the_stack_tells_who_marked() -> None:
    """Programs mark their heaps; only the prctl marks the stack as well."""
    marked = frozenset({"mg"})
    heap, stack = replace(PLAIN, flags=marked), replace(PLAIN, name="[stack]")
    assert not marks_everything([heap, stack])
    assert marks_everything([heap, replace(stack, flags=marked)])
    assert not marks_everything([])
