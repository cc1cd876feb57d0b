"""A program that tries on itself what must not be tried on anybody else, and dies of it.

Run by `probe` as a script of its own, with the standard library only:

- without arguments it tries everything and prints the answers as JSON;
- `hold` and `exec-and-hold` ask for merging, fill memory with equal pages and wait to be looked at;
  the second one does so as another program, which has inherited it.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import platform
import struct
import sys
from pathlib import Path
from typing import Final

PR_SET_MEMORY_MERGE: Final = 67
PR_GET_MEMORY_MERGE: Final = 68
MADV_MERGEABLE: Final = 12
MADV_UNMERGEABLE: Final = 13

MAPPINGS: Final = 100
EQUAL_PAGES: Final = 64

USERFAULTFD: Final = {"x86_64": 323, "aarch64": 282}
MSEAL: Final = 462
"""System call numbers; new calls have the same one on every machine."""

UFFD_API: Final = 0xAA
UFFD_FEATURE_MINOR_SHMEM: Final = 1 << 10
UFFDIO_API: Final = 0xC018AA3F
UFFDIO_REGISTER: Final = 0xC020AA00
UFFDIO_REGISTER_MODE_MINOR: Final = 1 << 2

_libc: Final = ctypes.CDLL(None, use_errno=True)
_PRIVATE: Final = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


def _set_merge() -> bool:
    return bool(_libc.prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0) == 0)


def _get_merge() -> bool:
    return bool(_libc.prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0) == 1)


def _child_merges() -> bool:
    pid = os.fork()
    if pid == 0:
        os._exit(0 if _get_merge() else 1)
    return os.waitpid(pid, 0)[1] == 0


def _new_ranges_join() -> bool:
    """Whether neighbours still become one range while merging is on (6.17)."""
    before = _count_ranges()
    kept = [mmap.mmap(-1, mmap.PAGESIZE, flags=_PRIVATE) for _ in range(MAPPINGS)]
    grown = _count_ranges() - before
    return grown < len(kept) // 2


def _count_ranges() -> int:
    return len(Path("/proc/self/maps").read_bytes().splitlines())


def _address(area: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(area))


def _flags(address: int) -> list[str]:
    """VmFlags of the range that begins there."""
    found = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.startswith("VmFlags:") and found:
            return line.split()[1:]
        head = line.partition("-")[0]
        if " " not in head and ":" not in head:
            found = int(head, 16) == address
    return []


def _unmerge_keeps_flags() -> bool | None:
    """Whether MADV_UNMERGEABLE leaves the flags above bit 31 alone; None if none can be had."""
    for mark, make in (("ui", _range_with_minor_faults), ("sl", _sealed_range)):
        made = make()
        if made is None or mark not in _flags(made[0]):
            continue
        address, _, _ = made
        for advice in (MADV_MERGEABLE, MADV_UNMERGEABLE):
            if _libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), advice):
                return None
        return mark in _flags(address)
    return None


def _range_with_minor_faults() -> tuple[int, mmap.mmap, int] | None:
    """Private shared-memory pages whose minor faults go to a userfaultfd (5.14)."""
    number = USERFAULTFD.get(platform.machine())
    if number is None:
        return None
    fd = _libc.syscall(number, os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        return None
    memory = os.memfd_create("probe")
    os.ftruncate(memory, mmap.PAGESIZE)
    area = mmap.mmap(memory, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE)
    address = _address(area)
    mode = UFFDIO_REGISTER_MODE_MINOR
    try:
        fcntl.ioctl(fd, UFFDIO_API, struct.pack("QQQ", UFFD_API, UFFD_FEATURE_MINOR_SHMEM, 0))
        fcntl.ioctl(fd, UFFDIO_REGISTER, struct.pack("QQQQ", address, mmap.PAGESIZE, mode, 0))
    except OSError:
        return None
    return address, area, fd


def _sealed_range() -> tuple[int, mmap.mmap, int] | None:
    """A range that can never be unmapped or changed any more (6.10)."""
    area = mmap.mmap(-1, mmap.PAGESIZE, flags=_PRIVATE)
    address = _address(area)
    sealed = _libc.syscall(
        MSEAL, ctypes.c_void_p(address), ctypes.c_size_t(mmap.PAGESIZE), ctypes.c_ulong(0)
    )
    return (address, area, -1) if sealed == 0 else None


def _again(*arguments: str) -> None:
    """Become this program once more, as another one."""
    os.execv(sys.executable, [sys.executable, "-I", "-S", __file__, *arguments])  # noqa: S606 - our own program


def _hold() -> None:
    area = mmap.mmap(-1, EQUAL_PAGES * mmap.PAGESIZE, flags=_PRIVATE)
    # Of this process alone, so that it merges with nobody else's.
    area.write(os.urandom(mmap.PAGESIZE) * EQUAL_PAGES)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()


def main(words: list[str]) -> None:
    """Do what the arguments say; see the module."""
    match words:
        case []:
            answers: dict[str, bool | None] = {"unmerge_keeps_flags": _unmerge_keeps_flags()}
            answers["takes_prctl"] = _set_merge()
            answers["fork_inherits"] = _child_merges()
            answers["new_ranges_join"] = _new_ranges_join()
            _again("report", json.dumps(answers))
        case ["report", text]:
            answers = json.loads(text)
            answers["exec_inherits"] = _get_merge()
            sys.stdout.write(json.dumps(answers))
        case ["exec-and-hold"]:
            _set_merge()
            _again("held")
        case ["hold"]:
            _set_merge()
            _hold()
        case ["held"]:
            _hold()


if __name__ == "__main__":
    main(sys.argv[1:])
