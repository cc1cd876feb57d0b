"""/proc: who a process is, what it says about merging, what the node has.

Numbers of a process are only worth something together with its start time, because pids are given
out again; :class:`Process` keeps the two together. An `OSError` never leaves this module.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.errors import KernelError, ProcessGone
from ksm_operator.kernel.memory_lock import under_memory_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import ExitStack

PROC: Final = Path("/proc")

MOST_DIGITS: Final = 20
"""Of an unsigned 64-bit number. What is longer the kernel has not written."""

PF_EXITING: Final = 0x4
PF_IO_WORKER: Final = 0x10
PF_USER_WORKER: Final = 0x4000
PF_KTHREAD: Final = 0x00200000

MOST_ANCESTORS: Final = 64

REALTIME_POLICIES: Final = frozenset({1, 2, 6})  # SCHED_FIFO, SCHED_RR, SCHED_DEADLINE


@dataclass(frozen=True, slots=True, order=True)
class Process:
    """One process, for as long as it lives.

    Attributes:
        pid: process id in the pid namespace of the reader.
        start_time: clock ticks since boot, field 22 of /proc/PID/stat; exec does not change it.
    """

    pid: int
    start_time: int

    def age(self) -> float:
        """Seconds since its start."""
        started = self.start_time / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started


@dataclass(frozen=True, slots=True)
class Stat:
    """The fields of /proc/PID/stat (or of one thread) that matter here.

    Attributes:
        comm: name, at most 15 bytes.
        state: one letter: R running, S sleeping, D uninterruptible, T stopped, t traced, Z zombie.
        ppid: parent's process id.
        flags: PF_* bits of the kernel.
        start_time: clock ticks since boot.
        policy: scheduling policy (0 is the ordinary one).
        start_stack: where the stack of its program begins; 0 in the middle of an exec, without
            memory, and without the right to look.
    """

    comm: str
    state: str
    ppid: int
    flags: int
    start_time: int
    policy: int
    start_stack: int = 0

    @property
    def is_kernel_thread(self) -> bool:
        """Has no memory of its own."""
        return bool(self.flags & PF_KTHREAD)

    @property
    def is_kernel_worker(self) -> bool:
        """A thread that the kernel runs inside a process (io_uring, vhost): no user code."""
        return bool(self.flags & (PF_IO_WORKER | PF_USER_WORKER))

    @property
    def is_zombie(self) -> bool:
        """Exited, or about to."""
        return self.state in ("Z", "X") or bool(self.flags & PF_EXITING)


@cache
def page_size() -> int:
    """Bytes of one page; 4096, 16384 or 65536."""
    return os.sysconf("SC_PAGE_SIZE")


def read_file(path: str | Path, pid: int) -> bytes:
    """One file of a process, whole.

    Raises:
        ProcessGone: it exited while or before we read.
        KernelError: permission, or another failure, with what to do.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            chunks = []
            while chunk := os.read(fd, 65536):
                chunks.append(chunk)
            return b"".join(chunks)
        finally:
            os.close(fd)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessGone(pid) from error
    except PermissionError as error:
        raise KernelError(f"{path} cannot be read ({error.strerror}): root is needed") from error
    except OSError as error:
        raise KernelError(f"{path} cannot be read: {error.strerror}") from error


def parse_stat(text: str) -> Stat:
    """Parse one line of /proc/PID/stat; the name may hold spaces and brackets.

    Raises:
        ValueError: the line is not of that form.
    """
    start, end = text.find("("), text.rfind(")")
    rest = text[end + 1 :].split()
    if start < 0 or end < start or len(rest) < 39:  # noqa: PLR2004 - policy is field 41 of proc(5)
        raise ValueError(f"not a stat line: {text[:80]!r}")
    return Stat(
        comm=text[start + 1 : end],
        state=rest[0],
        ppid=int(rest[1]),
        flags=int(rest[6]),
        start_time=int(rest[19]),
        policy=int(rest[38]),
        # The code's address comes last: an exec is over when it is there (load_elf_binary).
        start_stack=int(rest[25]) if rest[23] != "0" else 0,
    )


def read_stat(pid: int, tid: int | None = None, *, proc: Path = PROC) -> Stat:
    """Who the process (or one of its threads) is.

    Raises:
        ProcessGone: there is none.
    """
    path = f"{proc}/{pid}/stat" if tid is None else f"{proc}/{pid}/task/{tid}/stat"
    text = read_file(path, pid).decode(errors="surrogateescape")
    try:
        return parse_stat(text)
    except ValueError as error:
        raise KernelError(f"{path}: {error}") from error


def find_process(pid: int, *, proc: Path = PROC) -> Process:
    """The process that has this pid now.

    Raises:
        ProcessGone: there is none.
    """
    return Process(pid, read_stat(pid, proc=proc).start_time)


def is_alive(process: Process, *, proc: Path = PROC) -> bool:
    """True while this very process runs some thread; a zombie does not."""
    try:
        stat = read_stat(process.pid, proc=proc)
        if stat.start_time != process.start_time:
            return False
        return not stat.is_zombie or live_thread(process.pid, proc=proc) is not None
    except ProcessGone:
        return False


def check_alive(process: Process, *, proc: Path = PROC) -> Stat:
    """The leader's stat of this very process.

    Raises:
        ProcessGone: the pid is free, taken by another process, or no thread runs any more.
    """
    stat = read_stat(process.pid, proc=proc)
    if stat.start_time != process.start_time:
        raise ProcessGone(process.pid)
    if stat.is_zombie and live_thread(process.pid, proc=proc) is None:
        raise ProcessGone(process.pid)
    return stat


def threads(pid: int, *, proc: Path = PROC) -> list[int]:
    """Thread ids of a process, the leader first.

    Raises:
        ProcessGone: there is none.
    """
    try:
        tids = sorted(int(name) for name in os.listdir(f"{proc}/{pid}/task"))  # noqa: PTH208 - names only, for every process
    except OSError as error:
        raise ProcessGone(pid) from error
    return sorted(tids, key=lambda tid: tid != pid)


def live_thread(pid: int, *, proc: Path = PROC) -> int | None:
    """A thread that still has the process's memory; not the leader if that one has exited."""
    for tid in threads(pid, proc=proc):
        try:
            stat = read_stat(pid, tid, proc=proc)
        except ProcessGone:
            continue
        if not stat.is_zombie:
            return tid
    return None


def read_memory_file(process: Process, name: str, *, proc: Path = PROC) -> bytes:
    """A file of /proc/PID that describes memory, through a thread that still has it.

    A process whose main thread has exited shows such files empty through its leader.

    Raises:
        ProcessGone: no thread is left.
        Postponed: see `under_memory_lock`.
    """
    pid = process.pid
    data = under_memory_lock(pid, lambda: read_file(f"{proc}/{pid}/{name}", pid))
    if data:
        return data
    tid = live_thread(process.pid, proc=proc)
    if tid is None or tid == process.pid:
        return data
    return under_memory_lock(pid, lambda: read_file(f"{proc}/{pid}/task/{tid}/{name}", pid))


def open_memory_file(process: Process, name: str, files: ExitStack, proc: Path) -> int:
    """Such a file of this very process, to be read in places; closed with `files`.

    Raises:
        ProcessGone: it exited.
        KernelError: no right to read it.
    """
    tid = live_thread(process.pid, proc=proc)
    path = f"{proc}/{process.pid}/task/{tid}/{name}"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ProcessGone(process.pid) from error
    except OSError as error:
        raise KernelError(f"{path} cannot be read ({error.strerror}): root is needed") from error
    files.callback(os.close, fd)
    check_alive(process, proc=proc)
    return fd


def read_places(process: Process, fd: int, places: Iterable[tuple[int, int]]) -> list[bytes]:
    """Read such a file in places, each an offset and a length; empty where nothing can be read.

    Raises:
        Postponed: see `under_memory_lock`.
    """

    def read(length: int, offset: int) -> bytes:
        try:
            return os.pread(fd, length, offset)
        except OSError:
            return b""

    return under_memory_lock(
        process.pid, lambda: [read(length, offset) for offset, length in places]
    )


def read_parent(pid: int, *, proc: Path = PROC) -> int | None:
    """The parent's pid; None where there is no such process."""
    try:
        return read_stat(pid, proc=proc).ppid
    except KernelError:
        return None


def ancestors(pid: int, parent_of: Callable[[int], int | None] = read_parent) -> Iterator[int]:
    """Who a process descends from, the nearest first; pid 1 adopts whoever is left, so not it."""
    parent = parent_of(pid)
    for _ in range(MOST_ANCESTORS):
        if parent is None or parent <= 1:
            return
        yield parent
        parent = parent_of(parent)


def lines(text: str) -> list[str]:
    """Lines as the kernel ends them.

    Names of cgroups, processes and files may hold any other character that str.splitlines()
    takes for the end of a line: what follows it must not pass for the kernel's own words.
    """
    return text.split("\n")


def parse_fields(text: str) -> dict[str, str]:
    """Lines of `Name:<tab>value`, as /proc/PID/status and /proc/meminfo have them."""
    pairs = (line.partition(":") for line in lines(text))
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}


def read_status(pid: int, tid: int | None = None, *, proc: Path = PROC) -> dict[str, str]:
    """/proc/PID/status by field name.

    Raises:
        ProcessGone: there is none.
    """
    path = f"{proc}/{pid}/status" if tid is None else f"{proc}/{pid}/task/{tid}/status"
    return parse_fields(read_file(path, pid).decode(errors="surrogateescape"))


def parse_cgroup(text: str) -> dict[str, str]:
    """Path by controller from /proc/PID/cgroup; the unified hierarchy has the key `""`."""
    paths: dict[str, str] = {}
    for line in lines(text):
        parts = line.split(":", 2)
        if len(parts) == 3:  # noqa: PLR2004 - id, controllers, path
            for controller in parts[1].split(","):
                paths[controller] = parts[2]
    return paths


def read_cgroup(pid: int, *, proc: Path = PROC) -> dict[str, str]:
    """The process's cgroup path by controller, as seen from the reader's cgroup namespace.

    Raises:
        ProcessGone: there is none.
    """
    return parse_cgroup(read_file(f"{proc}/{pid}/cgroup", pid).decode(errors="surrogateescape"))


def parse_count(text: str) -> int | None:
    """A number as the kernel prints it, without a sign; None for anything else."""
    digits = text.strip()
    if len(digits) > MOST_DIGITS or not (digits.isascii() and digits.isdigit()):
        return None
    return int(digits)


def parse_meminfo(text: str) -> dict[str, int]:
    """/proc/meminfo in bytes by name (counts without a unit stay counts)."""
    values: dict[str, int] = {}
    for name, value in parse_fields(text).items():
        number, _, unit = value.partition(" ")
        count = parse_count(number)
        if count is not None:
            values[name] = count * (1024 if unit == "kB" else 1)
    return values


def read_meminfo(*, proc: Path = PROC) -> dict[str, int]:
    """The node's memory in bytes by /proc/meminfo's names (`MemTotal`, `MemAvailable`)."""
    return parse_meminfo((proc / "meminfo").read_text(encoding="ascii", errors="replace"))


def read_vmstat(*, proc: Path = PROC) -> dict[str, int]:
    """Counters of the node's memory since boot, by /proc/vmstat's names (`cow_ksm`)."""
    text = (proc / "vmstat").read_text(encoding="ascii", errors="replace")
    counters: dict[str, int] = {}
    for line in lines(text):
        name, _, number = line.partition(" ")
        count = parse_count(number)
        if count is not None:
            counters[name] = count
    return counters


def boot_id(*, proc: Path = PROC) -> str:
    """The id that the kernel made at boot; /run and pids mean nothing beyond it."""
    return (proc / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def pids(*, proc: Path = PROC) -> Iterator[int]:
    """Every process id at about this moment."""
    for name in os.listdir(proc):  # noqa: PTH208 - names only, for every process
        if name.isdigit():
            yield int(name)
