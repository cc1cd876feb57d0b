"""/proc/PID/smaps: the ranges of a process, which of them may merge, and how much of them has."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from ksm_operator.kernel.ksm_stat import read_ksm_stat
from ksm_operator.kernel.procfs import (
    PROC,
    Process,
    lines,
    page_size,
    parse_count,
    parse_fields,
    read_memory_file,
)

if TYPE_CHECKING:
    from pathlib import Path

MERGEABLE = "mg"
LOCKED = "lo"
USERFAULTFD = frozenset({"um", "uw", "ui"})
SIZES = frozenset({"Rss", "Anonymous", "AnonHugePages", "KSM"})
"""Lines of a range that are read, in kB."""
ABOVE_BIT_31 = frozenset({"ui", "ss", "mt", "sl"})
"""Userfaultfd minor faults, shadow stacks, memory tags, sealed: flags that need 64 bits."""


@dataclass(frozen=True, slots=True)
class Vma:
    """One range of addresses.

    Attributes:
        start: first address.
        end: first address after it.
        name: file or pseudo name (`[heap]`), empty for anonymous memory.
        flags: two-letter names of VmFlags, proc(5); `mg` is mergeable.
        rss_bytes: resident.
        anonymous_bytes: resident and private to the process (merged pages included).
        ksm_bytes: merged by ksmd, without pages of zeroes (6.6; 0 on older kernels).
        protection_key: pkeys(7); 0 is everybody's.
        huge_bytes: of `anonymous_bytes`, in transparent huge pages.
    """

    start: int
    end: int
    name: str
    flags: frozenset[str]
    rss_bytes: int
    anonymous_bytes: int
    ksm_bytes: int
    protection_key: int = 0
    huge_bytes: int = 0

    @property
    def size(self) -> int:
        """Bytes of address space."""
        return self.end - self.start

    @property
    def is_mergeable(self) -> bool:
        """Ksmd may merge pages of it."""
        return MERGEABLE in self.flags

    @property
    def has_high_flags(self) -> bool:
        """Some of its flags are above bit 31 of vm_flags; protection keys are kept there too."""
        return self.protection_key != 0 or bool(self.flags & ABOVE_BIT_31)


def parse_vmas(text: str) -> list[Vma]:
    """Parse smaps; lines that no kernel known here prints are passed over."""
    found: list[Vma] = []
    header: tuple[int, int, str] | None = None
    numbers: dict[str, int] = {}
    flags: frozenset[str] = frozenset()

    def finish() -> None:
        if header is not None:
            found.append(
                Vma(
                    header[0],
                    header[1],
                    header[2],
                    flags,
                    numbers.get("Rss", 0),
                    numbers.get("Anonymous", 0),
                    numbers.get("KSM", 0),
                    numbers.get("ProtectionKey", 0),
                    numbers.get("AnonHugePages", 0),
                )
            )

    for line in lines(text):
        name, _, value = line.partition(":")
        # A range has two dozen lines; the time that they take is the runtime's head start.
        if name in SIZES:
            numbers[name] = 1024 * (parse_count(value.removesuffix(" kB")) or 0)
        elif name == "ProtectionKey":
            numbers[name] = parse_count(value) or 0
        elif name == "VmFlags":
            flags = _flags(value)
        elif "-" in name and (parsed := _header(line)) is not None:
            finish()
            header, numbers, flags = parsed, {}, frozenset()
    finish()
    return found


@lru_cache(maxsize=256)
def _flags(names: str) -> frozenset[str]:
    # A process has thousands of ranges and a handful of combinations of flags.
    return frozenset(names.split())


def _header(line: str) -> tuple[int, int, str] | None:
    addresses, _, rest = line.partition(" ")
    low, dash, high = addresses.partition("-")
    if not dash:
        return None
    try:
        start, end = int(low, 16), int(high, 16)
    except ValueError:
        return None
    if not 0 <= start < end:
        return None
    parts = rest.split(maxsplit=4)
    return (start, end, parts[4] if len(parts) > 4 else "")  # noqa: PLR2004 - the name is the sixth


def read_merged_bytes(process: Process, *, proc: Path = PROC) -> int:
    """Memory that the process would need if every merged page of it became its own, now.

    Counted in its page tables: the counters of ksm_stat go on counting pages that were given back
    until ksmd scans again. Kernels before 6.6 have those counters only.

    Raises:
        ProcessGone: it exited.
        KernelError: no right to read it.
    """
    stat = read_ksm_stat(process, proc=proc)
    fields = parse_fields(
        read_memory_file(process, "smaps_rollup", proc=proc).decode(errors="surrogateescape")
    )
    merged = parse_count(fields.get("KSM", "").removesuffix(" kB"))
    if merged is None:
        merged = (stat.merging_pages or 0) * page_size() // 1024
    return merged * 1024 + (stat.zero_pages or 0) * page_size()


def read_vmas(process: Process, *, proc: Path = PROC) -> list[Vma]:
    """The ranges of a process; walks its page tables, so not for every process every second.

    Raises:
        ProcessGone: it exited.
        KernelError: no right to read it.
    """
    data = read_memory_file(process, "smaps", proc=proc)
    return parse_vmas(data.decode(errors="surrogateescape"))
