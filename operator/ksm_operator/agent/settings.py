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


def optional_values(ksmd: Ksmd) -> dict[str, int]:
    """Return the values that the policy sets explicitly, by file."""
    asked = {
        "merge_across_nodes": ksmd.merge_across_numa_nodes,
        "max_page_sharing": ksmd.max_page_sharing,
        "use_zero_pages": ksmd.use_zero_pages,
        "smart_scan": ksmd.smart_scan,
    }
    return {name: int(value) for name, value in asked.items() if value is not None}


def scanning_values(scanning: Scanning) -> dict[str, int | str]:
    """Return the values of the scan itself, `run` last.

    The kernel's own advisor overwrites pages_to_scan and refuses writes to it, so it is off.
    """
    return {
        "advisor_mode": "none",
        "pages_to_scan": scanning.pages_to_scan,
        "sleep_millisecs": scanning.sleep_millisecs,
        "run": int(scanning.run),
    }
