"""Making calls through a stopped thread of an aarch64 process.

The calls are made where the thread enters a system call of its own, or rt_sigreturn in the vdso.
From the first change on, whatever the thread does alone ends in its own state.
"""

from __future__ import annotations

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
    Place,
    Registers,
    Waited,
    entered_as,
    for_call,
    interrupted,
    parse_waited,
    place,
    returned_to,
    rewound,
    signed,
)
from ksm_operator.kernel.aarch64_sigframe import (
    DESCRIPTOR_BYTES,
    FPSIMD_BYTES,
    RESTORER,
    SignalFrame,
    build_frame,
    is_own_stack,
)
from ksm_operator.kernel.attached import (
    STOP_SECONDS,
    Attached,
    StillAttached,
    ThreadUnsuitable,
)
from ksm_operator.kernel.blocking import RESUMED, Suitability, suitability
from ksm_operator.kernel.errors import KernelError, Postponed, Refused
from ksm_operator.kernel.maps import Mappings, read_maps
from ksm_operator.kernel.procfs import read_file
from ksm_operator.kernel.remote_memory import read_memory, write_memory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ksm_operator.kernel.remote import Syscall
    from ksm_operator.kernel.threads import Candidate

REFUSED_BY_EVERY_CALL: Final = (-1,) * 6
"""No file, no clock, no address, no size: whatever call takes these does nothing."""

SYSTEM_CALL: Final = struct.Struct("<i")
VDSO_BYTES: Final = 65536
SVE_FLAGS: Final = struct.Struct("<12xH")
SVE_IN_USE: Final = 1


@dataclass(frozen=True, slots=True)
class _Own:
    """What the thread did when it was stopped.

    Attributes:
        registers: on the svc of its call, or in user code.
        call: name of the call that it has yet to make; None for user code.
        said_eintr: the kernel let that call end with EINTR.
        frame: through which it returns alone, if there is one.
    """

    registers: Registers
    call: str | None
    said_eintr: bool = False
    frame: SignalFrame | None = None


class Aarch64Caller:
    """See `machine.Caller`."""

    def __init__(self, target: Attached, candidate: Candidate) -> None:
        self._target = target
        self._tid = candidate.tid
        self._candidate = candidate
        self._caught_in = "user code"
        self._safeguard = ""
        self._mappings = Mappings([])
        self._restorer: int | None = None
        self._waited: Waited | None = None

    def before_interrupt(self) -> None:
        """Look up the ranges of the process, its vdso, and the call that the thread waits in."""
        process, proc = self._target.process, self._target.proc
        try:
            self._mappings = read_maps(process, proc=proc)
            self._restorer = self._find_restorer()
            file = f"{proc}/{process.pid}/task/{self._tid}/syscall"
            self._waited = parse_waited(read_file(file, process.pid).decode())
        except (KernelError, OSError):
            return

    def make(self, calls: Sequence[Syscall]) -> tuple[int, ...]:
        """See `machine.Caller.make`."""
        found = self._read_registers()
        if ptrace.dispatches_system_calls(self._tid):
            raise self._leave("SyscallUserDispatch")
        own = self._with_way_back(self._own(found))
        if own.said_eintr:
            # The program is safe from the EINTR as of now; only a signal brings it back.
            ptrace.set_registers(self._tid, own.registers)
            self._target.give_back = lambda: ptrace.set_registers(self._tid, found)
        return tuple(self._make_one(own, call) for call in calls)

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
        before = read_memory(self._tid, found.pc - INSTRUCTION_BYTES, INSTRUCTION_BYTES)
        at = read_memory(self._tid, found.pc, INSTRUCTION_BYTES)
        where = place(found, before, at, self._waited)
        if where is Place.USER_CODE:
            if rseq.in_section(self._tid, found.pc):
                raise self._leave("RestartableSequence")
            return _Own(found, None)
        said_eintr = where is Place.AFTER_EINTR
        registers = found
        if said_eintr:
            assert self._waited is not None
            registers = rewound(found, self._waited)
        name = NAMES.get(registers.x[8])
        if name == "restart_syscall":
            # What it slept in told its true name before the stop.
            known = self._candidate.blocked_in
            name = known if known in RESUMED else None
        if name is None or suitability(name, tuple(registers.x[:6])) is Suitability.NEVER:
            # It was seen running and is about to enter a transfer: nothing has been moved yet.
            raise self._leave("Busy", f"it enters {name or registers.x[8]}")
        self._caught_in = name
        return _Own(registers, name, said_eintr)

    def _with_way_back(self, own: _Own) -> _Own:
        """Write the signal frame, or see to it that the thread's call may answer 0."""
        frame = self._write_frame(own)
        if frame is not None:
            self._safeguard = "SignalFrame"
            return _Own(own.registers, own.call, own.said_eintr, frame)
        if own.call is None:
            raise self._leave("NoSafeReturn", "user code")
        arguments = tuple(own.registers.x[:6])
        if suitability(own.call, arguments) is not Suitability.ZERO_IS_LEGAL:
            raise self._leave("NoSafeReturn", own.call)
        self._safeguard = "LegalOutcome"
        return own

    def _write_frame(self, own: _Own) -> SignalFrame | None:
        """The signal frame in its place; None where there is no place or no way for it."""
        fpsimd = ptrace.register_set(self._tid, NT_PRFPREG, FPSIMD_BYTES)
        if self._restorer is None or fpsimd is None or self._is_guarded():
            return None
        if own.call is None and self._has_live_vectors():
            return None
        registers = own.registers
        if own.call is not None:
            registers = returned_to(registers, NUMBERS[own.call])
        frame = build_frame(registers, ptrace.signal_mask(self._tid), fpsimd)
        if not self._is_free(frame.address, own.registers.sp):
            return None
        if read_memory(self._tid, self._restorer, len(RESTORER)) != RESTORER:
            return None
        return frame if write_memory(self._tid, frame.address, frame.data) else None

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
                return mapping.start + found if found >= 0 else None
        return None

    def _make_one(self, own: _Own, call: Syscall) -> int:
        """One call, from one stop of ours to the next; returns what the kernel answered."""
        entered = self._enter_own_call(own) if own.call is not None else self._enter_vdso(own)
        self._replace(own, NUMBERS[call.name], call.arguments)
        self._target.give_back = lambda: self._settle(own, entered)
        self._target.step(call.seconds)
        answer = signed(self._read_registers().x[0])
        if -ERESTART_RESTARTBLOCK <= answer <= -ERESTARTSYS:
            self._target.leave()
            raise Postponed(
                self._target.process.pid, "Interrupted", f"a signal came during {call.name}"
            )
        self._target.give_back = None
        self._settle(own, entered)
        return answer

    def _enter_own_call(self, own: _Own) -> int:
        """Let it make its own call again as far as the entry; returns the number of it there.

        Only the kernel knows whether the call has a remaining time to go by: it is
        restart_syscall then.
        """
        self._target.step(STOP_SECONDS)
        # From here to the exit it is let go as it is: see `_replace`.
        self._target.give_back = None
        entered = self._entered()
        if entered not in (own.registers.x[8], NUMBERS["restart_syscall"]):
            raise self._unexpected(entered)
        return entered

    def _enter_vdso(self, own: _Own) -> int:
        """Send it to rt_sigreturn, which alone would bring it back to where it is."""
        frame = own.frame
        assert frame is not None
        self._target.give_back = lambda: ptrace.set_registers(self._tid, own.registers)
        there = for_call(own.registers, (), stack=frame.address, then=self._restorer)
        ptrace.set_registers(self._tid, there)
        self._target.step(STOP_SECONDS)
        self._target.give_back = None
        entered = self._entered()
        if entered != NUMBERS["rt_sigreturn"]:
            raise self._unexpected(entered)
        return entered

    def _settle(self, own: _Own, entered: int) -> None:
        """From the exit of our call to a stop of ours, with the thread in its own state again.

        On its way to that stop the kernel takes the thread for one that was interrupted in its own
        call, so a signal that is pending ends that call or not by the kernel's own rules. Were the
        call only rewound, a handler would run and nobody would see EINTR. What the kernel takes for
        the first argument is that of our call, so it is put right in the stop.

        Raises:
            StillAttached: it does not stop.
        """
        ptrace.request(ptrace.PTRACE_INTERRUPT, self._tid)
        settled, passing, number = own.registers, own.registers, NO_SYSTEM_CALL
        if own.call is not None:
            passing = interrupted(own.registers, entered, said_eintr=own.said_eintr)
            settled, number = returned_to(own.registers, entered), entered
        # In this order: before it has its registers it returns by the frame, or answers 0.
        self._set_call(number)
        ptrace.set_registers(self._tid, passing)
        ptrace.request(ptrace.PTRACE_CONT, self._tid)
        if self._target.wait(STOP_SECONDS) is None:
            raise StillAttached(f"thread {self._tid} did not stop in {STOP_SECONDS} s")
        ptrace.set_registers(self._tid, settled)

    def _replace(self, own: _Own, number: int, arguments: tuple[int, ...]) -> None:
        """At the entry of a call: make it ours, by steps each of which may be the last.

        Number and arguments cannot be set at once. With a frame the call that is there is first
        given arguments that it refuses; without, it becomes one that does nothing and answers 0.
        """
        if own.frame is not None:
            stack, then = own.frame.address, self._restorer
            refused = for_call(own.registers, REFUSED_BY_EVERY_CALL, stack=stack, then=then)
            ptrace.set_registers(self._tid, refused)
            self._set_call(number)
            ptrace.set_registers(
                self._tid, for_call(own.registers, arguments, stack=stack, then=then)
            )
            return
        self._set_call(NUMBERS["sched_yield"])
        inside = entered_as(own.registers, own.registers.x[8])
        ptrace.set_registers(self._tid, for_call(inside, arguments))
        self._set_call(number)

    def _entered(self) -> int:
        """Number of the call that the thread is at the entry of."""
        data = ptrace.register_set(self._tid, NT_ARM_SYSTEM_CALL, SYSTEM_CALL.size)
        return SYSTEM_CALL.unpack(data)[0] if data else NO_SYSTEM_CALL

    def _set_call(self, number: int) -> None:
        ptrace.set_register_set(self._tid, NT_ARM_SYSTEM_CALL, SYSTEM_CALL.pack(number))

    def _unexpected(self, entered: int) -> Postponed:
        self._target.leave()
        name = NAMES.get(entered, str(entered))
        return Postponed(self._target.process.pid, "UnexpectedSyscall", name)
