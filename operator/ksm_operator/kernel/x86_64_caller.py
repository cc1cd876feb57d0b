"""Making calls through a stopped thread of an x86-64 process."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel import ptrace
from ksm_operator.kernel.attached import STOP_SECONDS, Attached, ThreadUnsuitable
from ksm_operator.kernel.blocking import EINTR_BECOMES_RESTART
from ksm_operator.kernel.errors import Postponed, Refused
from ksm_operator.kernel.procfs import read_file
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
    from collections.abc import Sequence

    from ksm_operator.kernel.remote import Syscall
    from ksm_operator.kernel.threads import Candidate

AT_SYSINFO_EHDR: Final = 33
VDSO_BYTES: Final = 16384
RSEQ_CS_OFFSET: Final = 8
RSEQ_CS_BYTES: Final = 32


class X8664Caller:
    """See `machine.Caller`."""

    def __init__(self, target: Attached, candidate: Candidate) -> None:
        self._target = target
        self._tid = candidate.tid
        self._found = Registers()

    def before_interrupt(self) -> None:
        """Nothing has to be known before the stop."""

    def make(self, calls: Sequence[Syscall]) -> tuple[int, ...]:
        """See `machine.Caller.make`."""
        self._found = self._read_registers()
        site = self._call_site()
        # The registers to give back are fixed before the first one is changed.
        original = with_restart(self._found, EINTR_BECOMES_RESTART)
        self._target.give_back = lambda: ptrace.set_registers(self._tid, original)
        return tuple(self._make_one(call, site) for call in calls)

    def caught_in(self) -> str:
        """See `machine.Caller.caught_in`."""
        if not in_syscall(self._found):
            return "user code"
        return NAMES.get(self._found.orig_rax, str(self._found.orig_rax))

    def _read_registers(self) -> Registers:
        registers = Registers()
        size = ptrace.get_registers(self._tid, registers)
        if size != len(bytes(registers)) or registers.cs != USER_CS:
            self._target.leave()
            raise Refused(self._target.process.pid, "ThirtyTwoBit")
        return registers

    def _make_one(self, call: Syscall, site: int) -> int:
        """One call: to its entry, to its exit; returns what the kernel answered."""
        number = NUMBERS[call.name]
        pid = self._target.process.pid
        ptrace.set_registers(self._tid, for_call(self._found, number, call.arguments, site))
        self._target.step(STOP_SECONDS)
        if signed(self._read_registers().orig_rax) != number:
            self._target.leave()
            raise Postponed(pid, "UnexpectedSyscall", call.name)
        self._target.step(call.seconds)
        answer = signed(self._read_registers().rax)
        if -ERESTART_RESTARTBLOCK <= answer <= -ERESTARTSYS:
            self._target.leave()
            raise Postponed(pid, "Interrupted", f"a signal came during {call.name}")
        return answer

    def _call_site(self) -> int:
        """Address of a `syscall` instruction to run our calls through.

        Raises:
            ThreadUnsuitable: there is none, or moving the thread away would break it.
        """
        target, registers = self._target, self._found
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


def _in_rseq_section(target: Attached, memory: int, ip: int) -> bool:
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


def _vdso_site(target: Attached, memory: int) -> int | None:
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
