"""Code of the target that leads from our call back to its own state: found, never written.

Two pieces: `syscall; ret`, which makes the call and returns to the address at the top of the signal
frame, and `mov $15, %eax; syscall`, which is what every C library has its signal handlers return to
(rt_sigreturn). Any file that the target has mapped executable will do; with libc both are there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ksm_operator.kernel.maps import Mapping, Mappings

CALL_AND_RETURN: Final = b"\x0f\x05\xc3"
RESTORERS: Final = (b"\x48\xc7\xc0\x0f\0\0\0\x0f\x05", b"\xb8\x0f\0\0\0\x0f\x05")

CHUNK_BYTES: Final = 1 << 20
MOST_BYTES: Final = 64 << 20
"""How much of one file is searched, once: it is remembered by device and inode."""

MOST_REMEMBERED: Final = 4096


@dataclass(frozen=True, slots=True)
class ReturnPath:
    """Addresses in the target.

    Attributes:
        call: of `syscall; ret`.
        restorer: of the call of rt_sigreturn.
        restorer_code: the bytes that are there.
    """

    call: int
    restorer: int
    restorer_code: bytes

    def pieces(self) -> list[tuple[int, int]]:
        """Addresses and lengths of both."""
        return [(self.call, len(CALL_AND_RETURN)), (self.restorer, len(self.restorer_code))]

    def is_there(self, found: Sequence[bytes]) -> bool:
        """True if this is what the target has at the addresses of `pieces`."""
        return [*found] == [CALL_AND_RETURN, self.restorer_code]


@dataclass(frozen=True, slots=True)
class _Found:
    """What one mapped file has, as distances from the start of the mapping."""

    call: int | None
    restorer: int | None
    restorer_code: bytes


_Text = tuple[bytes, int, int, int]
_remembered: dict[_Text, _Found] = {}


def find_return_path(memory: Path, mappings: Mappings) -> ReturnPath | None:
    """Look for both pieces in the files that a process has mapped executable.

    Args:
        memory: its /proc/PID/mem.
        mappings: of the process.
    """
    call: int | None = None
    restorer: tuple[int, bytes] | None = None
    for mapping in sorted(filter(_is_code, mappings.ranges), key=_is_not_libc):
        found = _search(memory, mapping)
        if call is None and found.call is not None:
            call = mapping.start + found.call
        if restorer is None and found.restorer is not None:
            restorer = mapping.start + found.restorer, found.restorer_code
        if call is not None and restorer is not None:
            return ReturnPath(call, *restorer)
    return None


def forget(mappings: Mappings, path: ReturnPath) -> None:
    """The code was not where it was remembered (a file was changed in place): look again."""
    for address in (path.call, path.restorer):
        mapping = mappings.at(address)
        if mapping is not None:
            _remembered.pop(_key(mapping), None)


def _is_code(mapping: Mapping) -> bool:
    return mapping.rights[2:] == b"xp" and mapping.inode != 0


def _is_not_libc(mapping: Mapping) -> bool:
    name = mapping.name.rpartition(b"/")[2]
    return not name.startswith((b"libc.", b"libc-", b"ld-musl-"))


def _key(mapping: Mapping) -> _Text:
    return mapping.device, mapping.inode, mapping.offset, mapping.end - mapping.start


def _search(memory: Path, mapping: Mapping) -> _Found:
    key = _key(mapping)
    found = _remembered.get(key)
    if found is None:
        try:
            found = _search_text(memory, mapping)
        except OSError:
            # It is gone: that says nothing of the file.
            return _Found(None, None, b"")
        if len(_remembered) >= MOST_REMEMBERED:
            _remembered.clear()
        _remembered[key] = found
    return found


def _search_text(memory: Path, mapping: Mapping) -> _Found:
    call: int | None = None
    restorer: int | None = None
    code = b""
    overlap = len(RESTORERS[0]) - 1
    end = mapping.start + MOST_BYTES
    for start, text in _chunks(memory, mapping.start, min(mapping.end, end), overlap):
        base = start - mapping.start
        if call is None and (place := text.find(CALL_AND_RETURN)) >= 0:
            call = base + place
        for pattern in RESTORERS:
            if restorer is None and (place := text.find(pattern)) >= 0:
                restorer, code = base + place, pattern
        if call is not None and restorer is not None:
            break
    return _Found(call, restorer, code)


def _chunks(memory: Path, start: int, end: int, overlap: int) -> Iterator[tuple[int, bytes]]:
    """Pieces of memory with their addresses, each a little into the next."""
    with memory.open("rb", buffering=0) as file:
        for address in range(start, end, CHUNK_BYTES):
            length = min(CHUNK_BYTES + overlap, end - address)
            yield address, os.pread(file.fileno(), length, address)
