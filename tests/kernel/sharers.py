"""Processes with the same memory, which is no other's: other programs of the machine merge too."""

import secrets
import sys
from collections.abc import Callable

from kernel.conftest import Cgroup, Start, Target

SHARER = """
import mmap, sys
size, salt = int(sys.argv[1]) << 20, bytes.fromhex(sys.argv[2])
area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
# khugepaged puts small pages together, also merged ones that nobody else maps any longer.
area.madvise(mmap.MADV_NOHUGEPAGE)
def content(page):
    return (salt + page.to_bytes(8, "little")) * 256
def fill():
    for page in range(size >> 12):
        area[page << 12 : (page + 1) << 12] = content(page)
fill()
print("ready", flush=True)
for line in sys.stdin:
    if line == "refill\\n":
        area.madvise(mmap.MADV_DONTNEED)
        fill()
    good = all(area[p << 12 : (p + 1) << 12] == content(p) for p in range(size >> 12))
    print("intact" if good else "broken", flush=True)
"""
"""Holds so many MiB whose every page differs from the next, but not from another sharer's."""

Sharer = Callable[..., Target]


def sharers(start: Start, code: str = SHARER) -> Sharer:
    """What starts processes in a cgroup whose memory merges with each other's."""
    salt = secrets.token_hex(8)

    def begin(mebibytes: int, cgroup: Cgroup, *, ready: bool = True) -> Target:
        # It starts in the cgroup, so that every page of it is charged there.
        procs = cgroup.directory / "cgroup.procs"
        words = [sys.executable, "-u", "-c", code, str(mebibytes), salt]
        return start("sh", "-c", f'echo $$ > "{procs}"; exec "$@"', "sh", *words, ready=ready)

    return begin
