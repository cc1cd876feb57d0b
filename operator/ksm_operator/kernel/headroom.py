"""How much a cgroup, and the node, can still take before something is killed.

The room of a cgroup is its limit less what it cannot give back: usage without clean file cache.
Clean cache counts as room because the kernel drops it before it kills; dirty cache, cache under
writeback and shared memory do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ksm_operator.kernel.cgroupfs import Hierarchy

V1_UNLIMITED: Final = 1 << 62
"""Version 1 writes "no limit" as the largest page-aligned long; anything of that size is none."""


def parse_memory_stat(text: str) -> dict[str, int]:
    """memory.stat, bytes by name."""
    values = {}
    for line in text.splitlines():
        name, _, number = line.partition(" ")
        if number.strip().isdigit():
            values[name] = int(number)
    return values


def reclaimable_bytes(stat: Mapping[str, int]) -> int:
    """Clean file cache of a cgroup and all below it, from memory.stat of either version."""
    if "total_inactive_file" in stat:
        cache = stat["total_inactive_file"] + stat.get("total_active_file", 0)
        kept = stat.get("total_dirty", 0) + stat.get("total_writeback", 0)
    else:
        cache = stat.get("inactive_file", 0) + stat.get("active_file", 0)
        kept = stat.get("file_dirty", 0) + stat.get("file_writeback", 0)
    return max(0, cache - kept)


def level_headroom(limit: int | None, usage: int, reclaimable: int) -> int | None:
    """Room at one level in bytes, negative when over the limit; None without a limit."""
    if limit is None or limit >= V1_UNLIMITED:
        return None
    return limit - max(0, usage - reclaimable)


def memory_headroom(hierarchy: Hierarchy, directory: Path) -> int | None:
    """The least room on the way from this cgroup up to the root of the hierarchy.

    Args:
        hierarchy: the memory hierarchy of the node.
        directory: the cgroup's directory, below `hierarchy.mount`.

    Returns:
        Bytes, negative when some level is over its limit already; None when none has a limit.
        A cgroup that has gone counts as having none.
    """
    rooms: list[int] = []
    level = directory
    while level.is_relative_to(hierarchy.mount):
        read = _read_v1 if hierarchy.version == 1 else _read_v2
        rooms.extend(room for room in read(level) if room is not None)
        if level == hierarchy.mount:
            break
        level = level.parent
    return min(rooms, default=None)


def _read_v1(level: Path) -> list[int | None]:
    usage = _number(level / "memory.usage_in_bytes")
    if usage is None:
        return []
    reclaimable = reclaimable_bytes(_stat(level))
    rooms = [level_headroom(_number(level / "memory.limit_in_bytes"), usage, reclaimable)]
    swap_usage = _number(level / "memory.memsw.usage_in_bytes")
    if swap_usage is not None:
        swap_limit = _number(level / "memory.memsw.limit_in_bytes")
        rooms.append(level_headroom(swap_limit, swap_usage, reclaimable))
    return rooms


def _read_v2(level: Path) -> list[int | None]:
    usage = _number(level / "memory.current")
    if usage is None:
        return []
    reclaimable = reclaimable_bytes(_stat(level))
    # Above memory.high a cgroup is slowed down hard: as bad for its pod as a limit.
    limits = (_number(level / "memory.max"), _number(level / "memory.high"))
    return [level_headroom(limit, usage, reclaimable) for limit in limits]


def _number(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # `max` is no limit


def _stat(level: Path) -> dict[str, int]:
    try:
        return parse_memory_stat((level / "memory.stat").read_text(encoding="ascii"))
    except OSError:
        return {}


def node_headroom(meminfo: Mapping[str, int], reserve_bytes: int) -> int:
    """What the node can take beyond a reserve, in bytes; negative when the reserve is eaten into.

    Args:
        meminfo: from `read_meminfo()`.
        reserve_bytes: what must stay available (eviction threshold and the policy's reserve).
    """
    return meminfo.get("MemAvailable", 0) - reserve_bytes
