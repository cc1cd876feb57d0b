"""What all the programs have in common: when they begin, what they hold, and how they end.

A program says `started` and waits for a line: it is enrolled meanwhile. It says `ready` when it
has its memory, and ends when its standard input does: also when the benchmark was killed.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import select
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_MIB: Final = 1 << 20


def wait_for_enrolment() -> None:
    """Say that the program runs, and wait until it may go on."""
    print("started", flush=True)
    if not sys.stdin.readline():
        raise SystemExit


def say_ready() -> None:
    """Say that all memory is taken."""
    print("ready", flush=True)


def is_over(seconds: float) -> bool:
    """Tell, after so many seconds at most, whether the program shall end."""
    return bool(select.select([sys.stdin], [], [], seconds)[0])


def fork() -> bool:
    """Make a child that ends with its parent; tell whether this is the child."""
    parent = os.getpid()
    if os.fork():
        return False
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit
    return True


def area(mebibytes: int) -> mmap.mmap:
    """Return private memory in small pages: what `mmap` gives to an array of any language."""
    made = mmap.mmap(-1, mebibytes * _MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    made.madvise(mmap.MADV_NOHUGEPAGE)
    return made


def table(mebibytes: int, seed: str) -> mmap.mmap:
    """Return memory whose pages all differ, and are the same for the same seed."""
    made = area(mebibytes)
    for index in range(mebibytes):
        made[index * _MIB : (index + 1) * _MIB] = random.Random(f"{seed}/{index}").randbytes(_MIB)
    return made


def records(mebibytes: int) -> list[dict[str, object]]:
    """Return objects of the interpreter: full of addresses, and written to when they are read."""
    size = 512
    return [
        {"number": number, "name": f"user {number}", "tags": [number % 7, number % 11]}
        for number in range(mebibytes * _MIB // size)
    ]
