"""Which values under /sys/kernel/mm/ksm a policy asks for, in the order the kernel accepts. Pure.

Names come from this table and values from validated types; nothing of the API becomes a path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ksm_operator.agent.ksmd import Scanning
    from ksm_operator.agent.wire import Ksmd

REFUSED_WHILE_SHARED: Final = ("merge_across_nodes", "max_page_sharing")
"""EBUSY while pages are shared (kernel 6.18): made before the first enrolment, or pending."""

CLEANUP_PAGES: Final = 1000
CLEANUP_SLEEP: Final = 20


def optional_values(ksmd: Ksmd) -> dict[str, int]:
    """Return the values that the policy sets explicitly, by file."""
    advised = ksmd.tuning == "Advisor"
    asked = {
        "advisor_max_cpu": advisor_percent(ksmd.cpu_limit_milli_cpu) if advised else None,
        "merge_across_nodes": ksmd.merge_across_numa_nodes,
        "max_page_sharing": ksmd.max_page_sharing,
        "use_zero_pages": ksmd.use_zero_pages,
        "smart_scan": ksmd.smart_scan,
    }
    return {name: int(value) for name, value in asked.items() if value is not None}


def advisor_percent(milli_cpu: int) -> int:
    """Return a CPU limit as the kernel's advisor takes it: percent of one CPU, at most all of it.

    What a fraction of a percent is too much by, the budget takes back.
    """
    return min(100, -(-milli_cpu // 10))


def cleanup_values() -> dict[str, int | str]:
    """Return the values of a scan when nobody merges any more: there is little to go over."""
    return {
        "advisor_mode": "none",
        "pages_to_scan": CLEANUP_PAGES,
        "sleep_millisecs": CLEANUP_SLEEP,
        "run": 1,
    }


def scanning_values(scanning: Scanning, ksmd: Ksmd) -> dict[str, int | str]:
    """Return the values of the scan itself, `run` last.

    The kernel's own advisor overwrites pages_to_scan and refuses writes to it, so it is off where
    we choose the batches.
    """
    values: dict[str, int | str] = {"advisor_mode": "scan-time"}
    if ksmd.tuning != "Advisor":
        values = {
            "advisor_mode": "none",
            "pages_to_scan": scanning.pages_to_scan,
            "sleep_millisecs": scanning.sleep_millisecs,
        }
    if scanning.smart_scan is not None:
        values["smart_scan"] = int(scanning.smart_scan)
    return values | {"run": int(scanning.run)}
