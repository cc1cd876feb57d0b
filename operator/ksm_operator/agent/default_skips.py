"""Which pods are left alone unless they ask to merge, by what their specs say. Pure.

`consent` has those of which only their processes tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ksm_operator.agent.wire import PodSpec, Resources

SYSTEM_CRITICAL: Final = "SystemCritical"
"""The cluster depends on it: nothing may be won there that costs it a millisecond."""
HUGETLB_PAGES: Final = "HugetlbPages"
"""It has huge pages set aside for it, as who must not wait for memory does."""
SANDBOXED: Final = "Sandboxed"
"""Its memory is a guest's (Kata), or a file's, which ksmd passes over (gVisor)."""

SYSTEM_CRITICAL_CLASSES: Final = ("system-cluster-critical", "system-node-critical")
SYSTEM_CRITICAL_PRIORITY: Final = 2_000_000_000
"""No class of a user's own may have as much as that: pkg/apis/scheduling/types.go has half of it
for the highest."""
HUGETLB_PREFIX: Final = "hugepages-"
SANDBOX_CLASSES: Final = ("kata", "gvisor", "runsc")
"""How the names begin that the projects' own manifests give their RuntimeClasses. Who names them
otherwise is noticed by the processes."""


def default_skip(spec: PodSpec | None) -> str:
    """Return why a pod is left alone unless it asks; empty for no reason."""
    if spec is None:
        return ""
    if (
        spec.priority_class_name in SYSTEM_CRITICAL_CLASSES
        or (spec.priority or 0) >= SYSTEM_CRITICAL_PRIORITY
    ):
        return SYSTEM_CRITICAL
    if (spec.runtime_class_name or "").partition("-")[0] in SANDBOX_CLASSES:
        return SANDBOXED
    containers = (*(spec.containers or ()), *(spec.init_containers or ()))
    if any(map(_has_huge_pages, (spec.resources, *(one.resources for one in containers)))):
        return HUGETLB_PAGES
    return ""


def _has_huge_pages(resources: Resources | None) -> bool:
    limits = (resources.limits if resources is not None else None) or {}
    # A template that was given no value leaves a zero, with or without a unit.
    return any(
        name.startswith(HUGETLB_PREFIX) and str(size).strip("0.KMGTPEi") != ""
        for name, size in limits.items()
    )
