"""Enrolment switches merging on in the right processes, and in no others."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernel.conftest import Start, wait_until
from ksm_operator.kernel import (
    AlreadyMergeable,
    Enrolled,
    KernelFeatures,
    Mergeable,
    Postponed,
    ProcessGone,
    Refused,
    SkipReason,
    Tracer,
    enrol,
    find_process,
    is_marked,
    mergeable_processes,
    probe,
    release,
)
from support import kernel

WAIT = "import sys; print('ready', flush=True); sys.stdin.readline()"


def test_enrolment_is_real_and_idempotent(
    prctl: KernelFeatures, start: Start, tracer: Tracer
) -> None:
    """The kernel itself says that merging is on, and a second enrolment changes nothing."""
    target = start(code=WAIT)
    assert not kernel.merge_any(target.pid)
    assert isinstance(enrol(target.process, tracer), Enrolled)
    assert kernel.merge_any(target.pid)
    assert enrol(target.process, tracer) == AlreadyMergeable(target.process, "Prctl")


def test_who_merges_is_found(
    prctl: KernelFeatures, ksmd: None, start: Start, tracer: Tracer
) -> None:
    """Others in the pool must be seen; before 6.14 that takes a look by ksmd, and its word stays.

    A process that was released must not be taken for one that merges because of that.
    """
    target = start(code=WAIT)

    def found() -> list[Mergeable]:
        return [one for one in mergeable_processes() if one.process == target.process]

    enrol(target.process, tracer)
    wait_until(lambda: bool(found()), "ksmd has seen it")
    (seen,) = found()
    assert is_marked(seen)
    assert release(target.process, tracer, lambda: None).done
    assert not any(is_marked(one) for one in found())


def test_other_languages_and_shells(prctl: KernelFeatures, start: Start, tracer: Tracer) -> None:
    """The method knows nothing of the program's language."""
    for command in (
        ("sh", "-c", "echo ready; read line"),
        ("awk", 'BEGIN {print "ready"; fflush(); getline}'),
    ):
        target = start(*command)
        target.wait_for_state("S")
        assert isinstance(enrol(target.process, tracer), Enrolled)
        assert kernel.merge_any(target.pid)
        target.tell("")
        target.close_input()  # awk reads a whole block
        assert target.popen.wait(10) == 0


def test_children_inherit(prctl: KernelFeatures, start: Start, tracer: Tracer) -> None:
    """A process made after the enrolment is mergeable without another visit."""
    target = start(
        code="""
import subprocess, sys
print("ready", flush=True)
sys.stdin.readline()
child = subprocess.Popen(["sleep", "60"])
print(child.pid, flush=True)
sys.stdin.readline()
child.kill()
child.wait()
"""
    )
    enrol(target.process, tracer)
    target.tell("fork")
    child = int(target.line())
    wait_until(lambda: Path(f"/proc/{child}/comm").read_text() == "sleep\n", "exec")
    inherits = prctl.exec_inherits
    # Before 6.14 it shows in the program's ranges, which exec makes one after the other.
    wait_until(lambda: bool(kernel.merge_any(child)) == inherits, f"merging: {inherits}")
    target.tell("end")
    assert target.popen.wait(10) == 0


def reason_of(start: Start, tracer: Tracer, code: str, *arguments: str) -> str:
    """Why a program made of this code is refused."""
    target = start(*arguments, code=code)
    with pytest.raises(Refused) as caught:
        enrol(target.process, tracer)
    assert not kernel.merge_any(target.pid)
    return caught.value.reason


def test_locked_memory_is_refused(start: Start, tracer: Tracer) -> None:
    """It was locked so as never to wait for a page."""
    code = f"""
import ctypes, mmap
area = mmap.mmap(-1, 1 << 20)
address = ctypes.addressof(ctypes.c_char.from_buffer(area))
assert ctypes.CDLL(None).mlock(ctypes.c_void_p(address), 1 << 20) == 0
{WAIT}
"""
    assert reason_of(start, tracer, code) == SkipReason.LOCKED_MEMORY


def test_real_time_is_refused(start: Start, tracer: Tracer) -> None:
    """One thread under a real-time policy is enough."""
    code = f"""
import os, threading
def work():
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    {WAIT}
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        pytest.skip("no real-time budget in this cgroup (CONFIG_RT_GROUP_SCHED)")
    else:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    assert reason_of(start, tracer, code) == SkipReason.REAL_TIME


@pytest.mark.parametrize("holder", ["itself", "another"])
def test_userfaultfd_is_refused(holder: str, start: Start, tracer: Tracer) -> None:
    """Merging would lose its write-protect events; the ranges tell when the fd is elsewhere."""
    code = f"""
import ctypes, fcntl, mmap, os, platform, struct
libc = ctypes.CDLL(None, use_errno=True)
number = {{"x86_64": 323, "aarch64": 282}}[platform.machine()]
fd = libc.syscall(number, os.O_CLOEXEC | 1)
assert fd >= 0
if {holder == "another"}:
    fcntl.ioctl(fd, 0xC018AA3F, bytearray(struct.pack("QQQ", 0xAA, 0, 0)))
    area = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    fcntl.ioctl(fd, 0xC020AA00, bytearray(struct.pack("QQQQ", address, 1 << 20, 1, 0)))
    if os.fork() == 0:
        import time
        libc.prctl(1, 9, 0, 0, 0)
        time.sleep(60)
    os.close(fd)
{WAIT}
"""
    assert reason_of(start, tracer, code) == SkipReason.USERFAULTFD


def test_madvise_of_its_own_is_left_alone(start: Start, tracer: Tracer) -> None:
    """What the program set up for itself is not ours to change."""
    target = start(
        code=f"""
import mmap
area = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
area.madvise(mmap.MADV_MERGEABLE)
{WAIT}
"""
    )
    assert enrol(target.process, tracer) == AlreadyMergeable(target.process, "Madvise")
    assert not kernel.merge_any(target.pid)


def test_pause_is_refused(start: Start, tracer: Tracer, tmp_path: Path) -> None:
    """A pod's pause process holds its namespaces, and has nothing to merge."""
    program = tmp_path / "pause"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    outer = start("sh", "-c", f"echo ready; exec unshare --pid --fork --kill-child {program} 60")
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    wait_until(lambda: bool(children.read_text().split()), "the child")
    pid = int(children.read_text().split()[0])
    wait_until(lambda: Path(f"/proc/{pid}/comm").read_text() == "pause\n", "exec")
    with pytest.raises(Refused) as caught:
        enrol(find_process(pid), tracer)
    assert caught.value.reason == SkipReason.PAUSE


def test_kernel_thread_is_refused(tracer: Tracer) -> None:
    """It has no memory of its own."""
    with pytest.raises(Refused) as caught:
        enrol(find_process(kernel.ksmd_pid()), tracer)
    assert caught.value.reason == SkipReason.KERNEL_THREAD


def test_zombie_is_gone(tracer: Tracer) -> None:
    """A process that waits to be reaped has no memory any more."""
    with subprocess.Popen(["true"]) as child:
        process = find_process(child.pid)
        stat = Path(f"/proc/{child.pid}/stat")
        wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z", "zombie")
        with pytest.raises(ProcessGone):
            enrol(process, tracer)


def test_32_bit_program_is_refused(start: Start, tracer: Tracer, tmp_path: Path) -> None:
    """Its system call numbers mean other calls, so it is told by its file, before any stop."""
    # pause() in 32-bit code, then a loop: 26 bytes that need no library.
    code = bytes.fromhex("b804000000bb01000000b95a800408ba06000000cd80b81d000000cd80ebf7")
    text = b"ready\n"
    base, size = 0x08048000, 52 + 32
    code = code.replace(bytes.fromhex("5a800408"), (base + size + len(code)).to_bytes(4, "little"))
    header = b"\x7fELF\x01\x01\x01" + bytes(9)
    header += (2).to_bytes(2, "little") + (3).to_bytes(2, "little") + (1).to_bytes(4, "little")
    header += (base + size).to_bytes(4, "little") + (52).to_bytes(4, "little") + bytes(8)
    header += b"".join(n.to_bytes(2, "little") for n in (52, 32, 1, 0, 0, 0))
    whole = size + len(code) + len(text)
    words = (1, 0, base, base, whole, whole, 5, 0x1000)
    segment = b"".join(word.to_bytes(4, "little") for word in words)
    program = tmp_path / "small"
    program.write_bytes(header + segment + code + text)
    program.chmod(0o755)
    try:
        target = start(str(program))
    except OSError:
        pytest.skip("this kernel runs no 32-bit programs (CONFIG_IA32_EMULATION)")
    target.wait_for_state("S")
    with pytest.raises(Refused) as caught:
        enrol(target.process, tracer)
    assert caught.value.reason == SkipReason.THIRTY_TWO_BIT
    with pytest.raises((Refused, Postponed)):
        tracer.call(target.process, [])
    assert target.state() == "S"


def test_our_own_processes_are_not_mergeable_after_a_probe(ksm: None) -> None:
    """The probe asks a child that dies for it, never this process."""
    features = probe()
    assert features.method is not None, features.unsupported
    assert ctypes.CDLL(None).prctl(68, 0, 0, 0, 0) != 1
    assert not kernel.merge_any(os.getpid())
    assert sys.executable
