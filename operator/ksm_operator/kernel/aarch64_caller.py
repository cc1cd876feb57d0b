"""Making calls through a stopped thread of an aarch64 process.

The calls are made where the thread enters a system call of its own, or rt_sigreturn in the vdso.
From the first change on, whatever the thread does alone ends in its own state.
"""

from __future__ import annotations

import contextlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel import ptrace, rseq
from ksm_operator.kernel.aarch64 import (
    ERESTART_RESTARTBLOCK,
    ERESTARTSYS,
    INSTRUCTION_BYTES,
    NAMES,
    NO_SYSTEM_CALL,
    NT_ARM_GCS,
    NT_ARM_SSVE,
    NT_ARM_SVE,
    NT_ARM_SYSTEM_CALL,
    NT_ARM_TLS,
    NT_PRFPREG,
    NUMBERS,
    SVC,
    Registers,
    entered_as,
    for_call,
    interrupted,
    returned_to,
    signed,
)
from ksm_operator.kernel.aarch64_sigframe import (
    DESCRIPTOR_BYTES,
    FPSIMD_BYTES,
    NOP,
    RESTORER,
    build_frame,
    is_own_stack,
)
from ksm_operator.kernel.aarch64_wait import Ended, Wait
from ksm_operator.kernel.attached import (
    STOP_SECONDS,
    Attached,
    ThreadUnsuitable,
)
from ksm_operator.kernel.blocking import RESUMED, Suitability, suitability
from ksm_operator.kernel.errors import KernelError, Postponed, Refused
from ksm_operator.kernel.maps import Mappings, read_maps
from ksm_operator.kernel.remote_memory import read_memory, write_memory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ksm_operator.kernel.remote import Syscall
    from ksm_operator.kernel.threads import Candidate

REFUSED_BY_EVERY_CALL: Final = (-1,) * 6
"""No file, no clock, no address, no size: whatever call takes these does nothing."""

SYSTEM_CALL: Final = struct.Struct("<i")
VDSO_BYTES: Final = 65536
ALL_SIGNALS: Final = 0xFFFF_FFFF_FFFF_FFFF
SVE_FLAGS: Final = struct.Struct("<12xH")
SVE_IN_USE: Final = 1


@dataclass(frozen=True, slots=True)
class _Own:
    """What the thread did when it was stopped.

    Attributes:
        registers: on the svc of its call, or in user code.
        call: name of the call that it has yet to make; None for user code.
        said_eintr: the kernel let that call end with EINTR.
    """

    registers: Registers
    call: str | None
    said_eintr: bool = False


@dataclass(frozen=True, slots=True)
class _Way:
    """How a thread that is left alone returns to what it did.

    Attributes:
        own: what that was.
        mask: the signals that it blocks.
        frame: address of the signal frame that holds all of it.
        restorer: code that takes it back from there.
    """

    own: _Own
    mask: int
    frame: int
    restorer: int

    def with_arguments(self, arguments: tuple[int, ...]) -> Registers:
        """Registers of a call after which it returns."""
        return for_call(self.own.registers, arguments, stack=self.frame, then=self.restorer)


class Aarch64Caller:
    """See `machine.Caller`.

    Attributes:
        blocked_in: see there.
    """

    def __init__(self, target: Attached, candidate: Candidate) -> None:
        self._target = target
        self._tid = candidate.tid
        self.blocked_in = candidate.blocked_in
        self._caught_in = "user code"
        self._safeguard = ""
        self._mappings = Mappings([])
        self._restorer: int | None = None
        self._wait = Wait(target)
        self._ended: Ended | None = None

    def before_interrupt(self) -> None:
        """Look up the ranges of the process, and its vdso."""
        with contextlib.suppress(KernelError, OSError):
            self._mappings = read_maps(self._target.process, proc=self._target.proc)
            self._restorer = self._find_restorer()

    def note_call(self) -> None:
        """Note the call that it waits in, whose first argument its registers will have lost."""
        self._wait.note()

    def undo_eintr(self, signal: int) -> None:
        """See `machine.Caller.undo_eintr`."""
        self._ended = self._wait.undo_eintr(signal)
        self._target.give_back = self._wait.give_back if self._ended else None

    def make(self, calls: Sequence[Syscall]) -> tuple[int, ...]:
        """See `machine.Caller.make`."""
        found = self._read_registers()
        if ptrace.dispatches_system_calls(self._tid):
            raise self._leave("SyscallUserDispatch")
        own = self._own(found)
        way = self._way_back(own)
        if self._ended is None:
            self._target.give_back = lambda _signal: ptrace.set_registers(self._tid, found)
        return self._make_with(way, calls) if way else self._make_without(own, calls)

    def caught_in(self) -> str:
        """See `machine.Caller.caught_in`."""
        return self._caught_in

    def safeguard(self) -> str:
        """See `machine.Caller.safeguard`."""
        return self._safeguard

    def _read_registers(self) -> Registers:
        registers = Registers()
        if ptrace.get_registers(self._tid, registers) != len(bytes(registers)):
            self._target.leave()
            raise Refused(self._target.process.pid, "ThirtyTwoBit")
        return registers

    def _leave(self, reason: str, detail: str = "") -> ThreadUnsuitable:
        self._target.leave()
        return ThreadUnsuitable(reason, detail)

    def _own(self, found: Registers) -> _Own:
        """What the thread was stopped in.

        Raises:
            ThreadUnsuitable: it must not be kept from this call, or is where it cannot be moved.
        """
        registers = self._ended.again if self._ended else found
        if read_memory(self._tid, registers.pc, INSTRUCTION_BYTES) != SVC:
            if rseq.in_section(self._tid, found.pc):
                raise self._leave("RestartableSequence")
            return _Own(found, None)
        name = NAMES.get(registers.x[8])
        if name == "restart_syscall":
            # What it slept in told its true name before the stop.
            name = self.blocked_in if self.blocked_in in RESUMED else None
        if name is None or suitability(name, tuple(registers.x[:6])) is Suitability.NEVER:
            # It was seen running and is about to enter a transfer: nothing has been moved yet.
            raise self._leave("Busy", f"it enters {name or registers.x[8]}")
        self._caught_in = name
        return _Own(registers, name, self._ended is not None)

    def _way_back(self, own: _Own) -> _Way | None:
        """Write the signal frame; None where the thread's call may answer 0 and has to do."""
        way = self._write_frame(own)
        if way is not None:
            self._safeguard = "SignalFrame"
            return way
        if own.call is None:
            raise self._leave("NoSafeReturn", "user code")
        arguments = tuple(own.registers.x[:6])
        if suitability(own.call, arguments) is not Suitability.ZERO_IS_LEGAL:
            raise self._leave("NoSafeReturn", own.call)
        self._safeguard = "LegalOutcome"
        return None

    def _write_frame(self, own: _Own) -> _Way | None:
        """Put the signal frame in its place; None where there is no place or no way for it."""
        fpsimd = ptrace.register_set(self._tid, NT_PRFPREG, FPSIMD_BYTES)
        if self._restorer is None or fpsimd is None or self._is_guarded():
            return None
        if own.call is None and self._has_live_vectors():
            return None
        registers = own.registers
        if own.call is not None:
            registers = returned_to(registers, NUMBERS[own.call])
        mask = ptrace.signal_mask(self._tid)
        frame = build_frame(registers, mask, fpsimd)
        if not self._is_free(frame.address, own.registers.sp):
            return None
        if not write_memory(self._tid, frame.address, frame.data):
            return None
        return _Way(own, mask, frame.address, self._restorer)

    def _is_guarded(self) -> bool:
        """True if rt_sigreturn would want a token on a shadow stack (GCS)."""
        guarded = ptrace.register_set(self._tid, NT_ARM_GCS, 24)
        return guarded is not None and any(guarded[:8])

    def _has_live_vectors(self) -> bool:
        """True if a system call would lose vector state: user code that uses SVE, or streams."""
        for kind in (NT_ARM_SVE, NT_ARM_SSVE):
            header = ptrace.register_set(self._tid, kind, 16)
            if header is not None and SVE_FLAGS.unpack_from(header)[0] & SVE_IN_USE:
                return True
        return False

    def _is_free(self, address: int, stack_pointer: int) -> bool:
        pointers = ptrace.register_set(self._tid, NT_ARM_TLS, 16) or b""
        thread_pointer = int.from_bytes(pointers[:8], "little")
        start = thread_pointer - DESCRIPTOR_BYTES
        return is_own_stack(
            address,
            stack_pointer,
            self._mappings,
            main_thread=self._tid == self._target.process.pid,
            thread_pointer=thread_pointer,
            descriptor=read_memory(self._tid, start, DESCRIPTOR_BYTES) if start > 0 else b"",
        )

    def _find_restorer(self) -> int | None:
        for mapping in self._mappings.ranges:
            if mapping.name == b"[vdso]" and mapping.rights[2:3] == b"x":
                length = min(mapping.end - mapping.start, VDSO_BYTES)
                found = read_memory(self._tid, mapping.start, length).find(RESTORER)
                return mapping.start + found + len(NOP) if found >= 0 else None
        return None

    def _make_with(self, way: _Way, calls: Sequence[Syscall]) -> tuple[int, ...]:
        """The calls, each where the thread enters one of its own.

        From the first change on it may be left: alone it makes the call that it is in, or fails it,
        and returns.
        """
        own = way.own
        if own.call in RESUMED:
            entered = self._enter_own_call(own)
        else:
            ptrace.set_registers(self._tid, way.with_arguments(()))
            self._enter_return()
            entered = int(own.registers.x[8])
        self._refuse(way)
        # Nothing comes in between any more, and what came is delivered with its own call.
        ptrace.set_signal_mask(self._tid, ALL_SIGNALS)
        answers: list[int] = []
        for call in calls:
            if answers:
                self._enter_return()
                self._refuse(way)
            self._set_call(NUMBERS[call.name])
            ptrace.set_registers(self._tid, way.with_arguments(call.arguments))
            answers.append(self._exit(call))
        if own.call is None:
            self._enter_return()
            self._target.step(STOP_SECONDS)
        else:
            self._enter_with_own_arguments(way)
            self._end_interrupted(own, entered, way.mask)
        return tuple(answers)

    def _make_without(self, own: _Own, calls: Sequence[Syscall]) -> tuple[int, ...]:
        """The calls of a thread whose own call may answer 0, which is what it sees if we die."""
        answers = []
        entered = self._enter_own_call(own)
        for call in calls:
            inside = entered_as(own.registers, entered)
            self._set_call(NUMBERS["sched_yield"])
            ptrace.set_registers(self._tid, for_call(inside, call.arguments))
            self._set_call(NUMBERS[call.name])
            self._target.give_back = lambda _signal: self._put_before_call(own, entered)
            answers.append(self._exit(call))
            self._target.give_back = None
            self._put_before_call(own, entered)
            self._enter_own_call(own)
        self._end_interrupted(own, entered)
        return tuple(answers)

    def _enter_own_call(self, own: _Own) -> int:
        """Let it make its own call again as far as the entry; returns the number of it there.

        Only the kernel knows whether the call has a remaining time to go by: it is
        restart_syscall then.
        """
        entered = self._enter()
        if entered not in (own.registers.x[8], NUMBERS["restart_syscall"]):
            raise self._unexpected(entered)
        return entered

    def _enter_return(self) -> None:
        """From the way to rt_sigreturn to its entry."""
        entered = self._enter()
        if entered != NUMBERS["rt_sigreturn"]:
            raise self._unexpected(entered)

    def _enter(self) -> int:
        """On to an entry, from where it may be let go as it is; returns the number of the call."""
        self._target.step(STOP_SECONDS)
        self._target.give_back = None
        data = ptrace.register_set(self._tid, NT_ARM_SYSTEM_CALL, SYSTEM_CALL.size)
        return SYSTEM_CALL.unpack(data)[0] if data else NO_SYSTEM_CALL

    def _refuse(self, way: _Way) -> None:
        """At an entry: arguments that whatever call is there refuses, and then back by the frame.

        Number and arguments of a call cannot be set at once, so this comes before each change of
        the number. rt_sigreturn has no arguments but the place of the frame.
        """
        ptrace.set_registers(self._tid, way.with_arguments(REFUSED_BY_EVERY_CALL))

    def _exit(self, call: Syscall) -> int:
        """From the entry of our call to its exit; returns what the kernel answered."""
        self._target.step(call.seconds)
        answer = signed(self._read_registers().x[0])
        if -ERESTART_RESTARTBLOCK <= answer <= -ERESTARTSYS:
            self._target.leave()
            raise Postponed(
                self._target.process.pid, "Interrupted", f"a signal came during {call.name}"
            )
        return answer

    def _enter_with_own_arguments(self, way: _Way) -> None:
        """From the exit of our last call to the entry of rt_sigreturn, for `_end_interrupted`."""
        arguments = way.with_arguments(tuple(way.own.registers.x[:6]))
        # Some kernels remember the first argument from before the entry, others from after it.
        ptrace.set_registers(self._tid, arguments)
        self._enter_return()
        ptrace.set_registers(self._tid, arguments)

    def _end_interrupted(self, own: _Own, entered: int, mask: int | None = None) -> None:
        """From an entry with its own arguments to an exit of its own call that was interrupted.

        There the kernel makes the call again, with the first argument of this entry; or a signal
        that came meanwhile ends it by the kernel's own rules. Were the call only rewound, a handler
        would run and nobody would see EINTR.

        Args:
            own: what the thread did.
            entered: number of its call, see `interrupted`.
            mask: signals that it shall block again.
        """
        self._set_call(NUMBERS["sched_yield"])
        self._target.step(STOP_SECONDS)
        if mask is not None:
            ptrace.set_signal_mask(self._tid, mask)
        # In this order: before it has its registers it returns by the frame, or has answered 0.
        self._set_call(entered)
        ptrace.set_registers(
            self._tid, interrupted(own.registers, entered, said_eintr=own.said_eintr)
        )

    def _put_before_call(self, own: _Own, entered: int) -> None:
        """From the exit of our call to where its own begins."""
        self._set_call(NO_SYSTEM_CALL)
        ptrace.set_registers(self._tid, returned_to(own.registers, entered))

    def _set_call(self, number: int) -> None:
        ptrace.set_register_set(self._tid, NT_ARM_SYSTEM_CALL, SYSTEM_CALL.pack(number))

    def _unexpected(self, entered: int) -> Postponed:
        self._target.leave()
        name = NAMES.get(entered, str(entered))
        return Postponed(self._target.process.pid, "UnexpectedSyscall", name)
