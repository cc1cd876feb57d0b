"""What a process's page table says of merged and of huge pages: true at once, unlike counters.

ksmd's own counters learn that a page was written to, or that its process has ended, only when a
scan comes by: whoever scans rarely would be credited with savings that are gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Pages:
    """Some of a process's memory.

    Attributes:
        merged: bytes that are mapped to merged pages.
        huge: bytes in huge pages.
    """

    merged: int = 0
    huge: int = 0


def read_pages(pid: int) -> Pages:
    """Return what a process has now; nothing if it is gone."""
    try:
        return parse(Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii"))
    except OSError:
        return Pages()


def parse(text: str) -> Pages:
    """Return what /proc/PID/smaps_rollup says (`KSM`, Linux 6.7). Pure."""
    bytes_of = {
        name: int(value.split()[0]) << 10
        for name, colon, value in (line.partition(":") for line in text.splitlines())
        if colon and value.endswith("kB")
    }
    return Pages(bytes_of.get("KSM", 0), bytes_of.get("AnonHugePages", 0))
