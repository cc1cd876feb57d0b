"""What a memory cgroup uses, as the kubelet and metrics-server tell it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ksm_operator.kernel.headroom import parse_memory_stat
from ksm_operator.kernel.procfs import parse_count

if TYPE_CHECKING:
    from pathlib import Path

    from ksm_operator.kernel.cgroupfs import Hierarchy


def working_set(usage: int, inactive_file: int) -> int:
    """Usage less the file cache that is dropped first (cAdvisor's setMemoryStats)."""
    return max(0, usage - inactive_file)


def read_working_set(hierarchy: Hierarchy, directory: Path) -> int | None:
    """The working set of a cgroup and all below it in bytes; None if it has gone."""
    files = ("memory.usage_in_bytes", "total_inactive_file")
    if hierarchy.version != 1:
        files = ("memory.current", "inactive_file")
    try:
        usage = parse_count((directory / files[0]).read_text(encoding="ascii", errors="replace"))
        text = (directory / "memory.stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    if usage is None:
        return None
    return working_set(usage, parse_memory_stat(text).get(files[1], 0))
