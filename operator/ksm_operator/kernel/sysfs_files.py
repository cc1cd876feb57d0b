"""Every file of /sys/kernel/mm/ksm: what it counts, since when, and what may be written to it.

Sources: Documentation/ABI/testing/sysfs-kernel-mm-ksm, Documentation/admin-guide/mm/ksm.rst, and
the store functions of mm/ksm.c (Linux 6.18), which alone tell the ranges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

UINT_MAX: Final = 2**32 - 1
ULONG_MAX: Final = 2**64 - 1

ADVISOR_MODES: Final = ("none", "scan-time")

WHILE_SHARED: Final = "while pages are shared: release them first"
UNDER_ADVISOR: Final = "while advisor_mode is scan-time"


@dataclass(frozen=True, slots=True)
class KsmFile:
    """One file.

    Attributes:
        unit: what its number counts.
        since: the Linux version that brought it.
        allowed: smallest and largest number that may be written; None for a file that only reads.
        refused: when the kernel refuses a number that is in range; empty for never.
    """

    unit: str
    since: str
    allowed: tuple[int, int] | None = None
    refused: str = ""


FILES: Final[dict[str, KsmFile]] = {
    # 2 would unmerge everybody's pages, half-way and with OOM kills: it is never written here.
    "run": KsmFile("switch", "2.6.32", (0, 1)),
    "pages_to_scan": KsmFile("pages", "2.6.32", (0, UINT_MAX), UNDER_ADVISOR),
    "sleep_millisecs": KsmFile("milliseconds", "2.6.32", (0, UINT_MAX)),
    "merge_across_nodes": KsmFile("switch", "3.9 with CONFIG_NUMA", (0, 1), WHILE_SHARED),
    "max_page_sharing": KsmFile("mappings", "4.13", (2, 2**31 - 1), WHILE_SHARED),
    "stable_node_chains_prune_millisecs": KsmFile("milliseconds", "4.13", (0, UINT_MAX)),
    "use_zero_pages": KsmFile("switch", "4.12", (0, 1)),
    "smart_scan": KsmFile("switch", "6.7", (0, 1)),
    "advisor_mode": KsmFile("mode", "6.8"),
    # The kernel takes any number; more than all of one CPU means nothing to it.
    "advisor_max_cpu": KsmFile("percent of a CPU", "6.8", (0, 100)),
    "advisor_target_scan_time": KsmFile("seconds", "6.8", (1, ULONG_MAX)),
    "advisor_min_pages_to_scan": KsmFile("pages", "6.8", (0, ULONG_MAX)),
    "advisor_max_pages_to_scan": KsmFile("pages", "6.8", (0, ULONG_MAX)),
    "full_scans": KsmFile("scans", "2.6.32"),
    "pages_shared": KsmFile("pages", "2.6.32"),
    "pages_sharing": KsmFile("mappings", "2.6.32"),
    "pages_unshared": KsmFile("pages", "2.6.32"),
    "pages_volatile": KsmFile("pages", "2.6.32"),
    "pages_scanned": KsmFile("pages", "6.6"),
    "pages_skipped": KsmFile("pages", "6.7"),
    "ksm_zero_pages": KsmFile("mappings", "6.6"),
    "stable_node_chains": KsmFile("chains", "4.13"),
    "stable_node_dups": KsmFile("pages", "4.13"),
    "general_profit": KsmFile("bytes, signed", "6.4"),
}
"""By name. `advisor_mode` is the one that holds a word (`ADVISOR_MODES`) and may be written."""

WRITABLE: Final[dict[str, tuple[int, int]]] = {
    name: file.allowed for name, file in FILES.items() if file.allowed is not None
}
"""Files that take a whole number, with the smallest and the largest."""
