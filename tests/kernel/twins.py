"""Two processes that have a part of their memory in common, page by page."""

import secrets
from contextlib import closing

from kernel.conftest import Start, Target, wait_until
from kernel.test_release import merge
from ksm_operator.kernel import Tracer
from ksm_operator.kernel.merged_pages import MergedPages
from ksm_operator.kernel.procfs import page_size
from ksm_operator.kernel.ranges import Range
from support import kernel

EVERY_OTHER = """
import ctypes, mmap, os, sys
count, salt = int(sys.argv[1]), bytes.fromhex(sys.argv[2])
area = mmap.mmap(-1, count * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area.madvise(mmap.MADV_NOHUGEPAGE)
for page in range(count):
    # One has a twin in the other process, the next is nobody else's, the third is not there.
    if page % 3 < 2:
        start = (salt if page % 3 == 0 else os.urandom(8)) + page.to_bytes(8, "little")
        area[page * mmap.PAGESIZE : (page + 1) * mmap.PAGESIZE] = start * (mmap.PAGESIZE // 16)
print("ready", flush=True)
print(ctypes.addressof(ctypes.c_char.from_buffer(area)), flush=True)
sys.stdin.readline()
"""
COUNT = 3000
TWINS = list(range(0, COUNT, 3))

Twins = tuple[Target, Target, Range]


def merged_twins(start: Start, tracer: Tracer) -> Twins:
    """Two processes with every third page the same, merged; and where in the first."""
    words = [str(COUNT), secrets.token_hex(8)]
    one, two = (start(*words, code=EVERY_OTHER) for _ in range(2))
    address = int(one.line())
    mebibytes = len(TWINS) * page_size() >> 20
    merge(tracer, one, two, mebibytes=mebibytes)
    where = Range(address, address + COUNT * page_size())
    with closing(MergedPages(one.process)) as pages:
        wait_until(lambda: len(pages.merged(where)) >= len(TWINS), "all twins merged")
    kernel.write_setting("run", 0)
    return one, two, where
