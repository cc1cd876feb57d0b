"""A program that tracks its writes by userfaultfd loses none of them to merging."""

import pytest

from kernel.conftest import Start, Target, wait_until
from kernel.test_release import merged
from ksm_operator.kernel import Refused, Tracer, enrol
from ksm_operator.kernel.enrol import set_merge

PAGES = 512

TRACKER = """
import ctypes, fcntl, mmap, os, struct, sys, threading
pages = int(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
area = mmap.mmap(-1, pages << 12, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area.write(bytes([7]) * (pages << 12))
start = ctypes.addressof(ctypes.c_char.from_buffer(area))
fd = libc.syscall(323, os.O_CLOEXEC)
assert fd >= 0, os.strerror(ctypes.get_errno())
fcntl.ioctl(fd, 0xC018AA3F, bytearray(struct.pack("QQQ", 0xAA, 1, 0)))
fcntl.ioctl(fd, 0xC020AA00, bytearray(struct.pack("QQQQ", start, pages << 12, 2, 0)))
fcntl.ioctl(fd, 0xC018AA06, bytearray(struct.pack("QQQ", start, pages << 12, 1)))
events = 0
def track():
    global events
    while True:
        message = os.read(fd, 32)
        address = struct.unpack_from("Q", message, 16)[0] & ~4095
        events += 1
        fcntl.ioctl(fd, 0xC018AA06, bytearray(struct.pack("QQQ", address, 4096, 0)))
threading.Thread(target=track, daemon=True).start()
print("ready", flush=True)
sys.stdin.readline()
for page in range(pages):
    libc.memset(ctypes.c_void_p(start + (page << 12)), 8, 1)
print(events, flush=True)
"""
"""Write-protects its pages, writes to each when told to, and prints how many writes it saw."""


def tracked_writes(target: Target) -> int:
    """How many of its writes the program has noticed."""
    target.tell("write")
    return int(target.line())


def test_merging_by_force_loses_events(start: Start, ksmd: None, tracer: Tracer) -> None:
    """What the exclusion is for, and that the test below could see it."""
    target = start(str(PAGES), code=TRACKER)
    tracer.call(target.process, [set_merge(on=True)])
    wait_until(lambda: merged(target) >= (PAGES - 16) * 4096, "merged")
    assert tracked_writes(target) < PAGES


def test_an_excluded_program_loses_none(start: Start, ksmd: None, tracer: Tracer) -> None:
    """It is refused, nothing of it merges, and it sees every write."""
    target = start(str(PAGES), code=TRACKER)
    with pytest.raises(Refused, match="Userfaultfd"):
        enrol(target.process, tracer)
    assert merged(target) == 0
    assert tracked_writes(target) == PAGES
