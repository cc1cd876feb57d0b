"""The agent's memory."""

import subprocess
import sys

HEAPS = """
import ctypes, threading
from ksm_operator.agent import memory
if {one}:
    memory.keep_one_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
pieces = []
for _ in range(4):
    thread = threading.Thread(target=lambda: pieces.append(libc.malloc(1000)))
    thread.start()
    thread.join()
heap = next(line for line in open("/proc/self/maps") if line.endswith("[heap]\\n"))
begin, end = (int(part, 16) for part in heap.split()[0].split("-"))
print(all(begin <= piece < end for piece in pieces))
"""
SETTLED = """
import gc
from ksm_operator.agent import memory
memory.settle()
print(len(gc.get_objects()) < 100 < gc.get_freeze_count())
"""


def _says(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_threads_share_one_heap() -> None:
    """Each heap of its own keeps what its thread has freed."""
    assert _says(HEAPS.format(one=False)) == "False"
    assert _says(HEAPS.format(one=True)) == "True"


def test_what_lasts_is_not_gone_through_again() -> None:
    """The collector's pause is as long as a runtime needs to start a program."""
    assert _says(SETTLED) == "True"
