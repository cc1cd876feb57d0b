"""/proc/PID/maps: which addresses of a process are mapped, to what, and with which rights."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from ksm_operator.kernel.procfs import PROC, Process, read_memory_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_LINE: Final = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) (\S+) (\d{1,20})[ ]*(.*)$", re.MULTILINE
)


class Mapping(NamedTuple):
    """One range of addresses.

    Attributes:
        start: first address.
        end: first address after it.
        rights: `rwxp` or `rwxs`, a dash for each that is missing.
        offset: in the file.
        device: of the file, as `major:minor`.
        inode: of the file, 0 if there is none.
        name: path of the file, or the kernel's name for it (`[stack]`).
    """

    start: int
    end: int
    rights: bytes
    offset: int
    device: bytes
    inode: int
    name: bytes


@dataclass(frozen=True, slots=True)
class Mappings:
    """All ranges of a process at one moment, in the order of their addresses."""

    ranges: Sequence[Mapping]

    def at(self, address: int) -> Mapping | None:
        """The range that an address lies in."""
        place = bisect_right(self.ranges, address, key=lambda mapping: mapping.start) - 1
        if place < 0 or address >= self.ranges[place].end:
            return None
        return self.ranges[place]


def parse_maps(text: bytes) -> Mappings:
    """Parse /proc/PID/maps; lines of any other form are passed over."""
    return Mappings(
        [
            Mapping(int(low, 16), int(high, 16), rights, int(offset, 16), device, int(inode), name)
            for low, high, rights, offset, device, inode, name in _LINE.findall(text)
        ]
    )


def private(mappings: Mappings) -> list[Mapping]:
    """All memory that may be a process's own: what is shared never merges."""
    return [
        one for one in mappings.ranges if one.rights.endswith(b"p") and one.name != b"[vsyscall]"
    ]


def read_maps(process: Process, *, proc: Path = PROC) -> Mappings:
    """The ranges of a process as they are now.

    Raises:
        ProcessGone: it exited.
        KernelError: no right to look.
    """
    return parse_maps(read_memory_file(process, "maps", proc=proc))
