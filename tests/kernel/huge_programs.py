"""Programs that live in transparent huge pages, and how many they have."""

import re
from pathlib import Path

from kernel.conftest import Target

MIB = 1 << 20
SIZE = 32

PROGRAM = """
import ctypes, mmap, os, sys
# Khugepaged would give the interpreter's own memory huge pages too, with zeroes in them.
advise = ctypes.CDLL(None).madvise
for one in open("/proc/self/maps").read().splitlines():
    where, rights, _, _, file, *_ = one.split()
    if rights == "rw-p" and file == "0":
        begin, end = (int(part, 16) for part in where.split("-"))
        advise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), 15)  # MADV_NOHUGEPAGE
size, every = int(sys.argv[1]) << 20, int(sys.argv[2])
area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area.madvise(mmap.MADV_HUGEPAGE)
for page in range(size >> 12):
    same = page % every == 0
    content = page.to_bytes(8, "little") * 512 if same else os.urandom(4096)
    area[page << 12 : (page + 1) << 12] = content
"""
"""So many MiB in huge pages; one page in so many is the same in another of its kind."""

READY = 'print("ready", flush=True)\nsys.stdin.readline()\n'


def huge(target: Target) -> int:
    """Bytes in huge pages."""
    rollup = Path(f"/proc/{target.pid}/smaps_rollup").read_text()
    found = re.search(r"^AnonHugePages: +(\d+) kB", rollup, re.MULTILINE)
    assert found
    return int(found[1]) * 1024
