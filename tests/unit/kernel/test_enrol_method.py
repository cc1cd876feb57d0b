"""Which method a process is enrolled by, from what a probe found and what the process maps."""

from dataclasses import replace

import pytest

from ksm_operator.kernel import KernelFeatures, KsmStat, needs_repair
from ksm_operator.kernel.enrol import LARGE_RESERVATION_BYTES, MANY_RANGES, method_for
from ksm_operator.kernel.mergeable import marks_everything
from ksm_operator.kernel.smaps import Vma
from unit.kernel.kernels import NEWEST

PLAIN = Vma(0, 4096, "", frozenset(), 4096, 4096, 0)
MANY = [PLAIN] * (MANY_RANGES + 1)
RESERVED = [replace(PLAIN, end=LARGE_RESERVATION_BYTES + 2 * 4096)]
UNTOUCHED = [replace(RESERVED[0], rss_bytes=0, anonymous_bytes=0)]


@pytest.mark.parametrize(
    ("features", "vmas", "method"),
    [
        (NEWEST, [PLAIN], "Prctl"),
        (NEWEST, MANY, "Prctl"),
        (NEWEST, RESERVED, "Prctl"),
        (replace(NEWEST, method="Madvise"), [PLAIN], "Madvise"),
        (replace(NEWEST, new_ranges_join=False), [PLAIN], "Prctl"),
        (replace(NEWEST, new_ranges_join=False), MANY, "Madvise"),
        (replace(NEWEST, scan_skips_holes=False), RESERVED, "Madvise"),
        (replace(NEWEST, scan_skips_holes=None), RESERVED, "Madvise"),
        (replace(NEWEST, scan_skips_holes=False), UNTOUCHED, "Prctl"),
        (replace(NEWEST, scan_skips_holes=False), [PLAIN], "Prctl"),
    ],
)
def test_the_prctl_unless_it_would_hurt(
    features: KernelFeatures, vmas: list[Vma], method: str
) -> None:
    """It is inherited and needs no second visit, so only harm speaks against it."""
    assert method_for(features, vmas) == method


def test_stack_and_code_tell_who_marked() -> None:
    """Programs mark their heaps; only the prctl marks the stack and the code as well."""
    marked = frozenset({"mg"})
    heap, stack = replace(PLAIN, flags=marked), replace(PLAIN, name="[stack]")
    code = replace(PLAIN, name="/usr/bin/program", flags=frozenset({"ex"}))
    assert not marks_everything([heap, stack, code])
    assert marks_everything([heap, replace(stack, flags=marked)])
    assert marks_everything([heap, stack, replace(code, flags=code.flags | marked)])
    assert not marks_everything([])


@pytest.mark.parametrize(
    ("features", "rmap_items", "repair"),
    [
        (replace(NEWEST, exec_merges=False), 0, True),
        (replace(NEWEST, exec_merges=False), 5, False),
        (replace(NEWEST, exec_merges=None), 0, False),
        (NEWEST, 0, False),
        (replace(NEWEST, exec_inherits=False, exec_merges=False), 0, False),
    ],
    ids=["never scanned", "scanned", "not known", "works", "not inherited"],
)
def test_who_is_switched_off_and_on_again_after_an_exec(
    features: KernelFeatures, rmap_items: int, *, repair: bool
) -> None:
    """On 6.7 to 6.9 nothing else makes ksmd scan it; elsewhere it would undo ksmd's work."""
    assert needs_repair(features, KsmStat(rmap_items=rmap_items, merge_any=True)) is repair
