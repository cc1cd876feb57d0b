"""One visit to a thread: stop it, let it make our system calls, put everything back, let it go.

No byte of the target's memory is written. The calls run through a `syscall` instruction that is
there already: the one the thread is waiting behind, or one of the vdso. See
docs/design/remote-syscall.md for the method and what it cannot do.
"""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel import ptrace
from ksm_operator.kernel.blocking import EINTR_BECOMES_RESTART
from ksm_operator.kernel.errors import KernelError, Postponed, ProcessGone, Refused
from ksm_operator.kernel.procfs import Process, is_alive, read_file, read_stat, read_status
from ksm_operator.kernel.ptrace import Stop, StopKind
from ksm_operator.kernel.x86_64 import (
    ERESTART_RESTARTBLOCK,
    ERESTARTSYS,
    NAMES,
    NUMBERS,
    SYSCALL_INSTRUCTION,
    USER_CS,
    Registers,
    for_call,
    in_syscall,
    signed,
    with_restart,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ksm_operator.kernel.threads import Candidate

STOP_SECONDS: Final = 0.5
"""How long a thread may take to stop, or to reach the call, before the visit is called off."""

RESCUE_SECONDS: Final = 5.0
"""How long a thread that does not come back gets before the tracing thread gives it up."""

AT_SYSINFO_EHDR: Final = 33
VDSO_BYTES: Final = 16384
RSEQ_CS_OFFSET: Final = 8
RSEQ_CS_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Syscall:
    """A system call that a target shall make.

    It may be made twice when a signal interrupts the visit, so it has to be idempotent.

    Attributes:
        name: as the kernel calls it.
        arguments: at most six, signed or unsigned.
        seconds: how long the call itself may take.
    """

    name: str
    arguments: tuple[int, ...]
    seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class Visit:
    """What a visit brought.

    Attributes:
        results: one per call; negative numbers are errno values.
        tid: the thread that made the calls.
        caught_in: the system call it waited in, or `user code`.
        stopped_ns: from our interrupt to the detach, on our clock.
    """

    results: tuple[int, ...]
    tid: int
    caught_in: str
    stopped_ns: int


class ThreadUnsuitable(KernelError):  # noqa: N818 - names what happened, as in errors.py
    """This thread turned out not to serve; another one may. Nothing was changed."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class StillAttached(KernelError):  # noqa: N818 - names what happened, as in errors.py
    """The kernel will only let go of the thread when the tracing thread exits."""


class _Attached:
    """A seized thread, and what is needed to leave it as it was found."""

    def __init__(self, process: Process, candidate: Candidate, proc: Path) -> None:
        self.process = process
        self.tid = candidate.tid
        self.proc = proc
        self.original: Registers | None = None

    def stop(self) -> None:
        """Stop it; signals that come first are delivered."""
        ptrace.request(ptrace.PTRACE_INTERRUPT, self.tid)
        deadline = time.monotonic() + STOP_SECONDS
        while True:
            stop = self.wait(deadline - time.monotonic())
            if stop is None:
                raise StillAttached(f"thread {self.tid} did not stop in {STOP_SECONDS} s")
            if stop.kind is StopKind.INTERRUPTED:
                return
            if stop.kind is StopKind.GROUP_STOP:
                self.leave()
                raise Postponed(self.process.pid, "Stopped")
            ptrace.request(ptrace.PTRACE_CONT, self.tid, 0, stop.signal)

    def wait(self, seconds: float) -> Stop | None:
        """The next stop; None when it does not come in time.

        Raises:
            ProcessGone: the thread was the last one.
            ThreadUnsuitable: it exited, others live on.
            StillAttached: it took another id in an exec.
        """
        try:
            stop = ptrace.wait_stop(self.tid, seconds)
        except ChildProcessError as error:
            raise StillAttached(f"thread {self.tid} vanished in an exec") from error
        if stop is not None and stop.kind is StopKind.GONE:
            if not is_alive(self.process, proc=self.proc):
                raise ProcessGone(self.process.pid)
            raise ThreadUnsuitable("Exiting", f"thread {self.tid}")
        return stop

    def check_identity(self) -> None:
        """Leave at once if the id belongs to another process by now."""
        try:
            alive = (
                read_stat(self.process.pid, proc=self.proc).start_time == self.process.start_time
                and read_stat(self.process.pid, self.tid, proc=self.proc) is not None
            )
        except ProcessGone:
            alive = False
        if not alive:
            self.leave()
            raise ProcessGone(self.process.pid)

    def read_registers(self) -> Registers:
        """The registers as they are now.

        Raises:
            Refused: a 32-bit task.
        """
        registers = Registers()
        size = ptrace.get_registers(self.tid, registers)
        if size != len(bytes(registers)) or registers.cs != USER_CS:
            self.leave()
            raise Refused(self.process.pid, "ThirtyTwoBit")
        return registers

    def leave(self, signal: int = 0) -> None:
        """Give the registers back, deliver a signal if one is pending, and let go."""
        if self.original is not None:
            ptrace.set_registers(self.tid, self.original)
            self.original = None
        ptrace.request(ptrace.PTRACE_DETACH, self.tid, 0, signal)

    def leave_after(self, error: OSError) -> None:
        """Leave although the kernel refused a request.

        Raises:
            StillAttached: it refuses this too.
        """
        try:
            self.leave()
        except OSError:
            raise StillAttached(f"thread {self.tid}: {error}") from error


def visit(
    process: Process,
    candidate: Candidate,
    calls: Sequence[Syscall],
    *,
    options: int,
    abandoned: Callable[[], bool],
    proc: Path,
) -> Visit:
    """Let one thread of a process make system calls.

    Args:
        process: whose memory the calls are for.
        candidate: which of its threads.
        calls: in this order, in one stop.
        options: PTRACE_O_* for the seize.
        abandoned: asked after the seize, which may have waited long behind an exec: True if nobody
            waits for the result any more.
        proc: the proc file system.

    Raises:
        ProcessGone: it exited meanwhile.
        ThreadUnsuitable: another thread may serve.
        Postponed: not now (a signal came, it is being stopped or traced).
        Refused: a 32-bit task.
        StillAttached: the calling thread must exit for the kernel to let go of the target.
    """
    target = _Attached(process, candidate, proc)
    _seize(target, options)
    if abandoned():
        raise StillAttached(f"thread {target.tid} came too late")
    started = time.monotonic_ns()
    try:
        target.stop()
        target.check_identity()
        registers = target.read_registers()
        site = _call_site(target, registers)
        # The registers to give back are fixed before the first one is changed.
        target.original = with_restart(registers, EINTR_BECOMES_RESTART)
        results = tuple(_make_call(target, registers, call, site) for call in calls)
        target.leave()
    except OSError as error:
        # ESRCH: killed while it was stopped, and the kernel has let go of it.
        if not is_alive(process, proc=proc):
            raise ProcessGone(process.pid) from error
        target.leave_after(error)
        raise Postponed(process.pid, "PtraceFailed", str(error)) from error
    caught_in = "user code"
    if in_syscall(registers):
        caught_in = NAMES.get(registers.orig_rax, str(registers.orig_rax))
    return Visit(results, target.tid, caught_in, time.monotonic_ns() - started)


def _seize(target: _Attached, options: int) -> None:
    try:
        ptrace.request(ptrace.PTRACE_SEIZE, target.tid, 0, options)
    except ProcessLookupError as error:
        if not is_alive(target.process, proc=target.proc):
            raise ProcessGone(target.process.pid) from error
        raise ThreadUnsuitable("Exiting", f"thread {target.tid}") from error
    except PermissionError as error:
        if not is_alive(target.process, proc=target.proc):
            raise ProcessGone(target.process.pid) from error
        status = read_status(target.process.pid, proc=target.proc)
        if status.get("TracerPid", "0") != "0":
            raise ThreadUnsuitable("Traced", f"by process {status['TracerPid']}") from error
        raise ThreadUnsuitable(
            "PtraceDenied", "CAP_SYS_PTRACE is needed, and no Yama or LSM rule against it"
        ) from error


def _make_call(target: _Attached, registers: Registers, call: Syscall, site: int) -> int:
    """One call: to its entry, to its exit; returns what the kernel answered."""
    number = NUMBERS[call.name]
    ptrace.set_registers(target.tid, for_call(registers, number, call.arguments, site))
    _step(target, STOP_SECONDS)
    if signed(target.read_registers().orig_rax) != number:
        target.leave()
        raise Postponed(target.process.pid, "UnexpectedSyscall", call.name)
    _step(target, call.seconds)
    answer = signed(target.read_registers().rax)
    if -ERESTART_RESTARTBLOCK <= answer <= -ERESTARTSYS:
        target.leave()
        raise Postponed(target.process.pid, "Interrupted", f"a signal came during {call.name}")
    return answer


def _step(target: _Attached, seconds: float) -> None:
    """On to the next entry or exit of a system call."""
    ptrace.request(ptrace.PTRACE_SYSCALL, target.tid)
    stop = target.wait(seconds)
    if stop is None:
        # A frozen cgroup, or a call that takes too long: stop it once more and go home.
        ptrace.request(ptrace.PTRACE_INTERRUPT, target.tid)
        stop = target.wait(RESCUE_SECONDS)
        if stop is None:
            raise StillAttached(f"thread {target.tid} does not come back")
        target.leave(stop.signal)
        raise Postponed(target.process.pid, "NoProgress", f"nothing for {seconds} s")
    if stop.kind is not StopKind.SYSCALL:
        target.leave(stop.signal)
        reason = "SignalArrived" if stop.kind is StopKind.SIGNAL else "Stopped"
        raise Postponed(target.process.pid, reason)


def _call_site(target: _Attached, registers: Registers) -> int:
    """Address of a `syscall` instruction to run our calls through.

    Raises:
        ThreadUnsuitable: there is none, or moving the thread away would break it.
    """
    path = f"{target.proc}/{target.process.pid}/task/{target.tid}/mem"
    try:
        memory = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        target.leave()
        raise ThreadUnsuitable("MemoryNotReadable", str(error)) from error
    try:
        own = int(registers.rip) - len(SYSCALL_INSTRUCTION)
        if in_syscall(registers) and _read(memory, own, 2) == SYSCALL_INSTRUCTION:
            return own
        if not in_syscall(registers) and _in_rseq_section(target, memory, registers.rip):
            target.leave()
            raise ThreadUnsuitable("RestartableSequence")
        site = _vdso_site(target, memory)
        if site is None:
            target.leave()
            raise ThreadUnsuitable("NoSyscallInstruction")
        return site
    finally:
        os.close(memory)


def _read(memory: int, address: int, length: int) -> bytes:
    try:
        return os.pread(memory, length, address)
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.EIO, errno.EFAULT):
            raise
        return b""


def _in_rseq_section(target: _Attached, memory: int, ip: int) -> bool:
    """True if the kernel would abort what the thread is doing once it is moved away; rseq(2)."""
    area = ptrace.rseq_address(target.tid)
    if area is None:
        return False
    pointer = int.from_bytes(_read(memory, area + RSEQ_CS_OFFSET, 8), "little")
    if pointer == 0:
        return False
    section = _read(memory, pointer, RSEQ_CS_BYTES)
    if len(section) < RSEQ_CS_BYTES:
        return True
    start = int.from_bytes(section[8:16], "little")
    length = int.from_bytes(section[16:24], "little")
    return start <= ip < start + length


def _vdso_site(target: _Attached, memory: int) -> int | None:
    auxv = read_file(
        f"{target.proc}/{target.process.pid}/task/{target.tid}/auxv", target.process.pid
    )
    for offset in range(0, len(auxv) - 15, 16):
        if int.from_bytes(auxv[offset : offset + 8], "little") == AT_SYSINFO_EHDR:
            base = int.from_bytes(auxv[offset + 8 : offset + 16], "little")
            break
    else:
        return None
    found = _read(memory, base, VDSO_BYTES).find(SYSCALL_INSTRUCTION)
    return None if found < 0 else base + found
