"""How much a cgroup, and the node, can still take before something is killed.

The room of a cgroup is its limit less what it cannot give back: usage without clean file cache.
Clean cache counts as room because the kernel drops it before it kills; dirty cache, cache under
writeback and shared memory do not. Swap is not counted on: it may be full when it is needed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.procfs import PROC, lines, parse_count, read_meminfo

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from ksm_operator.kernel.cgroupfs import Hierarchy

V1_UNLIMITED: Final = 1 << 62
"""Version 1 writes "no limit" as the largest page-aligned long; anything of that size is none."""

NODE: Final = "node"
"""Name of the level above all cgroups; no cgroup path is without a slash."""

EVICTION_BYTES: Final = 100 << 20
"""The kubelet evicts pods below this much (`memory.available<100Mi`, its default on Linux)."""


_LIMITS: Final[dict[int, tuple[tuple[str, str | None], ...]]] = {
    1: (
        ("memory.limit_in_bytes", None),
        ("memory.memsw.limit_in_bytes", "memory.memsw.usage_in_bytes"),
    ),
    # Above memory.high a cgroup is slowed down hard: as bad for its pod as a limit.
    2: (("memory.max", None), ("memory.high", None)),
}
"""By version, the files with limits, and those with the usage that they limit where it is not that
of `usage_file`."""


@dataclass(frozen=True, slots=True)
class Level:
    """One cgroup on the way up to the root, or the node.

    Attributes:
        name: the cgroup as /proc/PID/cgroup has it; `NODE` for the node.
        room: bytes that it can still take, negative when over its limit; None without a limit.
        usage: bytes charged to it, as `read_usage` reads them, when the room was read; None without
            a limit, and for the node.
        limits: as `read_limits` reads them; none for the node.
    """

    name: str
    room: int | None
    usage: int | None = None
    limits: tuple[int | None, ...] = ()


@dataclass(frozen=True, slots=True)
class MemoryEvents:
    """How often limits were hit since the cgroups were made, all levels added up.

    Attributes:
        throttled: times that memory.high was exceeded (version 2).
        limited: times that a limit was reached, and something had to be reclaimed.
        oom: times that reclaim found nothing (version 2).
        oom_kill: processes killed.
    """

    throttled: int = 0
    limited: int = 0
    oom: int = 0
    oom_kill: int = 0

    def __add__(self, other: MemoryEvents) -> MemoryEvents:
        return MemoryEvents(
            self.throttled + other.throttled,
            self.limited + other.limited,
            self.oom + other.oom,
            self.oom_kill + other.oom_kill,
        )

    def is_short_since(self, before: MemoryEvents) -> bool:
        """Somebody ran out of memory between the two looks."""
        return self.oom > before.oom or self.oom_kill > before.oom_kill

    def is_tight_since(self, before: MemoryEvents) -> bool:
        """A limit was reached between the two looks: what follows has to wait for reclaim."""
        return self.throttled > before.throttled or self.limited > before.limited


class Rooms:
    """The rooms of every cgroup above a process, and of the node, read anew each time.

    Attributes:
        hierarchy: the memory hierarchy of the node.
    """

    def __init__(self, hierarchy: Hierarchy, reserve_share: float, *, proc: Path = PROC) -> None:
        """Prepare; nothing is read yet.

        Args:
            hierarchy: the memory hierarchy of the node.
            reserve_share: share of MemTotal that must stay available.
            proc: the proc file system.
        """
        self.hierarchy = hierarchy
        self._reserve_share = reserve_share
        self._proc = proc

    def levels(self, directory: Path) -> list[Level]:
        """From this cgroup up to the root, then the node."""
        meminfo = read_meminfo(proc=self._proc)
        reserve = int(meminfo.get("MemTotal", 0) * self._reserve_share)
        node = Level(NODE, node_headroom(meminfo, reserve))
        return [*cgroup_levels(self.hierarchy, directory), node]

    def events(self, directory: Path) -> MemoryEvents:
        """Of this cgroup and all above it."""
        return read_events(self.hierarchy, directory)


def tightest(levels: Iterable[Level]) -> Level | None:
    """The level with the least room; None when none has a limit."""
    limited = [level for level in levels if level.room is not None]
    return min(limited, key=lambda level: level.room or 0, default=None)


def with_margin(need: int, margin_bytes: int) -> int:
    """Room that is asked for where `need` bytes may be used: as much again, up to a margin."""
    return need + min(need, margin_bytes)


def within(need: int, room: int | None, margin_bytes: int) -> bool:
    """True if something that can cost `need` bytes fits into this room, with its margin.

    What costs nothing always fits: a cgroup that is over its limit already must not keep a process
    from being switched off.
    """
    return need == 0 or room is None or with_margin(need, margin_bytes) <= room


def largest_within(room: int, margin_bytes: int) -> int:
    """The largest need that fits into a room with its margin; less than 1 if none does."""
    return room - margin_bytes if room >= 2 * margin_bytes else room // 2


def parse_memory_stat(text: str) -> dict[str, int]:
    """memory.stat, memory.events and their like: numbers by name."""
    values = {}
    for line in lines(text):
        name, _, number = line.partition(" ")
        count = parse_count(number)
        if count is not None:
            values[name] = count
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


def level_headroom(limit: int, usage: int, reclaimable: int) -> int:
    """Room at one level in bytes, negative when over the limit."""
    return limit - max(0, usage - reclaimable)


def cgroup_levels(hierarchy: Hierarchy, directory: Path, *, most: int | None = None) -> list[Level]:
    """Every cgroup from this one up to the root of the hierarchy, with its room.

    A cgroup that has gone counts as having no limit.

    Args:
        hierarchy: the memory hierarchy of the node.
        directory: the cgroup's directory, below `hierarchy.mount`.
        most: levels that are looked at; the others are not read. None for all.
    """
    return [_level(hierarchy, level) for level in path_up(hierarchy, directory)[:most]]


def path_up(hierarchy: Hierarchy, directory: Path) -> list[Path]:
    """This cgroup's directory and those above it, up to the root of what is mounted."""
    found = []
    level = directory
    while level.is_relative_to(hierarchy.mount):
        found.append(level)
        if level == hierarchy.mount:
            break
        level = level.parent
    return found


def usage_file(hierarchy: Hierarchy, directory: Path) -> str:
    """The file that says how many bytes are charged to a cgroup, page cache included.

    The kernel keeps this figure, unlike those of memory.stat, so that it is cheap to ask for.
    """
    name = "memory.usage_in_bytes" if hierarchy.version == 1 else "memory.current"
    return str(directory / name)


def read_usage(file: str) -> int | None:
    """What `usage_file` says now, in bytes; None for a cgroup that has gone."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return int(os.read(fd, 32))
        finally:
            os.close(fd)
    except (OSError, ValueError):
        return None


def read_limits(hierarchy: Hierarchy, directory: Path) -> tuple[int | None, ...]:
    """The limits of one cgroup in bytes, always the same ones in the same order.

    None for one that is not set, for one that the machine does not have (of memory and swap, in
    version 1), and for a cgroup that has gone.
    """
    return tuple(_limit(directory / limit) for limit, _ in _LIMITS[hierarchy.version])


def memory_headroom(hierarchy: Hierarchy, directory: Path) -> int | None:
    """The least room on the way from this cgroup up to the root of the hierarchy.

    Args:
        hierarchy: the memory hierarchy of the node.
        directory: the cgroup's directory, below `hierarchy.mount`.

    Returns:
        Bytes, negative when some level is over its limit already; None when none has a limit.
        A cgroup that has gone counts as having none.
    """
    level = tightest(cgroup_levels(hierarchy, directory))
    return None if level is None else level.room


def _level(hierarchy: Hierarchy, directory: Path) -> Level:
    name, limits = hierarchy.name(directory), read_limits(hierarchy, directory)
    if all(limit is None for limit in limits):
        # Most levels have no limit, and for memory.stat the kernel adds up every CPU's counts.
        return Level(name, None, None, limits)
    usage = read_usage(usage_file(hierarchy, directory))
    reclaimable = reclaimable_bytes(_stat(directory / "memory.stat"))
    rooms = []
    for limit, (_, file) in zip(limits, _LIMITS[hierarchy.version], strict=True):
        used = usage if file is None or limit is None else _number(directory / file)
        if limit is not None and used is not None:
            rooms.append(level_headroom(limit, used, reclaimable))
    return Level(name, min(rooms, default=None), usage, limits)


def _limit(path: Path) -> int | None:
    number = _number(path)
    return None if number is None or number >= V1_UNLIMITED else number


def _number(path: Path) -> int | None:
    """None for `max`, which is no limit, and for a cgroup that has gone."""
    try:
        return parse_count(path.read_text(encoding="ascii", errors="replace"))
    except OSError:
        return None


def _stat(path: Path) -> dict[str, int]:
    try:
        return parse_memory_stat(path.read_text(encoding="ascii", errors="replace"))
    except OSError:
        return {}


def read_events(hierarchy: Hierarchy, directory: Path) -> MemoryEvents:
    """Counters of this cgroup and of all above it, added up; they only ever rise.

    Version 1 has no counter for memory.high, which it lacks, nor for an OOM without a kill.
    """
    total = MemoryEvents()
    for level in path_up(hierarchy, directory):
        if hierarchy.version == 1:
            control = _stat(level / "memory.oom_control")
            total += MemoryEvents(
                limited=(_number(level / "memory.failcnt") or 0)
                + (_number(level / "memory.memsw.failcnt") or 0),
                oom_kill=control.get("oom_kill", 0),
            )
        else:
            # The other file counts what happens in every cgroup below as well (local: Linux 5.2).
            local = _stat(level / "memory.events.local")
            events = local or _stat(level / "memory.events")
            names = ("high", "max", "oom", "oom_kill")
            total += MemoryEvents(*(events.get(name, 0) for name in names))
    return total


def kubelet_available(meminfo: Mapping[str, int]) -> int:
    """What a kubelet calls `memory.available`: the node's memory less its working set.

    The working set is anonymous memory and file cache without the inactive part of it, so that
    active file cache, which the kernel would drop, counts as used (cAdvisor's setMemoryStats).
    """
    cache = meminfo.get("Cached", 0) + meminfo.get("Buffers", 0)
    used = meminfo.get("AnonPages", 0) + cache - meminfo.get("Inactive(file)", 0)
    return meminfo.get("MemTotal", 0) - max(0, used)


def node_headroom(meminfo: Mapping[str, int], reserve_bytes: int) -> int:
    """What the node can take beyond a reserve, and before the kubelet evicts a pod.

    Args:
        meminfo: from `read_meminfo()`.
        reserve_bytes: what must stay available.

    Returns:
        Bytes; negative when the reserve is eaten into.
    """
    room = meminfo.get("MemAvailable", 0) - reserve_bytes
    if "MemTotal" in meminfo:
        room = min(room, kubelet_available(meminfo) - EVICTION_BYTES)
    return room
