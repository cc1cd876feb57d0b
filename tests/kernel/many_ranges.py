"""Processes of many ranges each, and how much memory it takes to look at them."""

import contextlib
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

from kernel.conftest import Start
from ksm_operator.kernel import Process, find_process

PROGRAM = """
import mmap, os, sys
kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
areas = [mmap.mmap(-1, mmap.PAGESIZE, flags=kind) for i in range(int(sys.argv[1]))]
for index, area in enumerate(areas):
    area.madvise((mmap.MADV_DODUMP, mmap.MADV_DONTDUMP)[index % 2])
    area[0] = 1
if all(os.fork() for child in range(int(sys.argv[2]))):
    print("ready", flush=True)
sys.stdin.read()
"""
"""No range joins its neighbours, which are not dumped where it is; each has a page."""


@contextlib.contextmanager
def family(start: Start, ranges: int, children: int) -> Iterator[list[Process]]:
    """One and its children; all end afterwards."""
    target = start(sys.executable, "-u", "-c", PROGRAM, str(ranges), str(children))
    pids = Path(f"/proc/{target.pid}/task/{target.pid}/children").read_text().split()
    yield [target.process, *(find_process(int(pid)) for pid in pids)]
    target.close_input()


def height(look: Callable[[], object]) -> int:
    """How many bytes a look takes at its height."""
    tracemalloc.start()
    try:
        look()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
