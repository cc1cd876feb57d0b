"""Writes to its pages when told to, and says what CPU time that took, in nanoseconds.

Two areas with the same content, which the program asks to be merged itself. Argument: pages of
each. Of each further line of standard input one byte of every page is written.
"""

from __future__ import annotations

import mmap
import random
import sys
import time

from benchmarks.governor.programs import life


def main() -> None:
    """Write, one round for each line."""
    pages = int(sys.argv[1])
    life.wait_for_enrolment()
    content = random.Random(pages).randbytes(pages * mmap.PAGESIZE)
    areas = []
    for _ in range(2):
        area = mmap.mmap(-1, len(content), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        area.madvise(mmap.MADV_NOHUGEPAGE)
        area.madvise(mmap.MADV_MERGEABLE)
        area[:] = content
        areas.append(area)
    life.say_ready()
    places = range(0, len(content), mmap.PAGESIZE)
    for number, _ in enumerate(sys.stdin):
        # The same byte in both, so that they can be merged again.
        byte = number % 256
        began = time.thread_time_ns()
        for area in areas:
            for at in places:
                area[at] = byte
        print(time.thread_time_ns() - began, flush=True)


if __name__ == "__main__":
    main()
