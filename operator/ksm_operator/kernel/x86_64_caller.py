"""Making calls through a stopped thread of an x86-64 process."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel import ptrace, rseq
from ksm_operator.kernel.attached import (
    RESCUE_SECONDS,
    STOP_SECONDS,
    Attached,
    StillAttached,
    ThreadUnsuitable,
)
from ksm_operator.kernel.blocking import EINTR_BECOMES_RESTART, RESUMED, Suitability, suitability
from ksm_operator.kernel.errors import KernelError, Postponed, Refused
from ksm_operator.kernel.maps import Mappings, read_maps
from ksm_operator.kernel.ptrace import StopKind
from ksm_operator.kernel.remote_memory import read_memory, read_pieces, write_memory
from ksm_operator.kernel.stacks import DESCRIPTOR_BYTES, is_own_stack
from ksm_operator.kernel.x86_64 import (
    ERESTART_RESTARTBLOCK,
    ERESTARTSYS,
    NAMES,
    NUMBERS,
    SYSCALL_INSTRUCTION,
    USER_CS,
    Registers,
    arguments,
    for_call,
    has_shadow_stacks,
    in_syscall,
    is_interrupted,
    made_again,
    signed,
    with_restart,
)
from ksm_operator.kernel.x86_64_return import ReturnPath, find_return_path, forget
from ksm_operator.kernel.x86_64_sigframe import SignalFrame, build_frame
from ksm_operator.kernel.x86_64_transfer import rest_of_transfer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ksm_operator.kernel.remote import Syscall
    from ksm_operator.kernel.threads import Candidate

MOST_XSTATE_BYTES: Final = 32768
TRANSFER_SECONDS: Final = 2.0
"""How long a transfer that was cut short may take until it is cut short for good."""


class X8664Caller:
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
        self._return_path: ReturnPath | None = None
        self._found: Registers | None = None
        self._shadow_stack = (
            ptrace.RegisterSet(ptrace.NT_X86_SHSTK, 8) if has_shadow_stacks() else None
        )
        self._xstate = ptrace.RegisterSet(ptrace.NT_X86_XSTATE, MOST_XSTATE_BYTES)

    def before_interrupt(self) -> None:
        """Look up the ranges of the process, and code in them to return through."""
        target = self._target
        try:
            self._mappings = read_maps(target.process, proc=target.proc)
            memory = target.proc / str(target.process.pid) / "task" / str(self._tid) / "mem"
            self._return_path = find_return_path(memory, self._mappings)
        except KernelError:
            return

    def note_call(self) -> None:
        """Nothing: the registers tell all of it."""

    def undo_eintr(self, signal: int) -> None:  # noqa: ARG002 - the kernel looks at it
        """See `machine.Caller.undo_eintr`: the kernel decides after the stop what runs."""
        self._found = None
        found = Registers()
        if not _is_of_64_bits(found, ptrace.get_registers(self._tid, found)):
            return
        self._found = with_restart(found, EINTR_BECOMES_RESTART)
        if self._found.rax != found.rax:
            ptrace.set_registers(self._tid, self._found)

    def make(self, calls: Sequence[Syscall]) -> tuple[int, ...]:
        """See `machine.Caller.make`."""
        original = found = self._found or self._read_registers()
        # What is given back is fixed before the first register is changed.
        self._target.give_back = lambda _signal: ptrace.set_registers(self._tid, original)
        own_call = self._own_call(found)
        if own_call is None:
            found = self._finish_transfer(found)
        frame = self._prepare_return(found, own_call)
        if frame is not None and self._return_path is not None:
            self._safeguard = "SignalFrame"
            site, stack = self._return_path.call, frame.address
        else:
            self._safeguard = "LegalOutcome"
            site, stack = self._own_site(found, own_call), None
        return tuple(self._make_one(found, call, site, stack) for call in calls)

    def caught_in(self) -> str:
        """See `machine.Caller.caught_in`."""
        return self._caught_in

    def safeguard(self) -> str:
        """See `machine.Caller.safeguard`."""
        return self._safeguard

    def _read_registers(self) -> Registers:
        registers = Registers()
        if not _is_of_64_bits(registers, ptrace.get_registers(self._tid, registers)):
            self._target.leave()
            raise Refused(self._target.process.pid, "ThirtyTwoBit")
        return registers

    def _leave(self, reason: str, detail: str = "") -> ThreadUnsuitable:
        self._target.leave()
        return ThreadUnsuitable(reason, detail)

    def _own_call(self, found: Registers) -> str | None:
        """Name of the call that the thread still has to make; None for user code.

        Raises:
            ThreadUnsuitable: it must not be kept from this call, or is where it cannot be moved.
        """
        if ptrace.dispatches_system_calls(self._tid):
            raise self._leave("SyscallUserDispatch")
        if not is_interrupted(found, EINTR_BECOMES_RESTART):
            return None
        name = NAMES.get(found.orig_rax)
        if name == "restart_syscall":
            # What it slept in told its true name before the stop.
            name = self.blocked_in if self.blocked_in in RESUMED else None
        if suitability(name, arguments(found)) is Suitability.NEVER:
            # It was seen running and has entered a transfer since. Nothing is transferred yet, or
            # the call would not be one to be restarted: leaving now is in time.
            raise self._leave("Busy", f"it has entered {name or found.orig_rax}")
        self._caught_in = name or ""
        return name

    def _finish_transfer(self, found: Registers) -> Registers:
        """Let the thread transfer what our stop kept it from; returns what it is left with.

        If it takes long it is stopped once more: then the result is short, as it may be, and says
        what was transferred. If we die meanwhile, the thread goes on with it alone, and returns by
        the frame, which can only say that all of it was.

        Raises:
            ThreadUnsuitable: it has no frame to do so, or it took long.
            Postponed: a signal has ended it.
            StillAttached: it does not stop.
        """
        files = self._target.proc / str(self._tid) / "fd"
        rest = rest_of_transfer(found, files)
        if rest is None:
            return found
        whole = found.copy()
        whole.rax = rest.whole
        frame = self._prepare_return(whole, None)
        if frame is None or self._return_path is None:
            raise self._leave("Busy", "a transfer was cut short")
        call = for_call(found, rest.number, rest.arguments, self._return_path.call, frame.address)
        ptrace.set_registers(self._tid, call)
        is_long = False
        for _ in ("entry", "exit"):
            ptrace.request(ptrace.PTRACE_SYSCALL, self._tid)
            stop = self._target.wait(TRANSFER_SECONDS)
            if stop is None:
                is_long = True
                ptrace.request(ptrace.PTRACE_INTERRUPT, self._tid)
                stop = self._target.wait(RESCUE_SECONDS)
            if stop is None:
                raise StillAttached(f"thread {self._tid} is in a long transfer", "Busy")
            if stop.kind is not StopKind.SYSCALL:
                self._target.leave(stop.signal)  # it has transferred nothing more
                raise Postponed(self._target.process.pid, "SignalArrived")
        whole.rax = rest.done + max(0, signed(self._read_registers().rax))
        self._target.give_back = lambda _signal: ptrace.set_registers(self._tid, whole)
        if is_long:
            raise self._leave("Busy", "a long transfer")
        return whole

    def _prepare_return(self, found: Registers, own_call: str | None) -> SignalFrame | None:
        """Write the signal frame; None where there is no place or no way for it.

        Raises:
            ThreadUnsuitable: it is in user code that it cannot be moved out of.
        """
        path = self._return_path
        if path is None:
            return None
        if self._shadow_stack is not None and self._shadow_stack.read(self._tid) is not None:
            return None
        xstate = self._xstate.read(self._tid)
        if xstate is None:
            return None
        returned_to = made_again(found, NUMBERS[own_call]) if own_call else found
        mask = ptrace.signal_mask(self._tid)
        frame = build_frame(returned_to, mask, xstate, path.restorer)
        sequence = (0, 0) if in_syscall(found) else rseq.pointer_piece(self._tid)
        pieces = [*path.pieces(), sequence, (found.fs_base, DESCRIPTOR_BYTES)]
        *code, pointer, descriptor = read_pieces(self._tid, pieces)
        if not path.is_there(code):
            forget(self._mappings, path)
            return None
        if rseq.is_in(self._tid, found.rip, pointer):
            raise self._leave("RestartableSequence")
        is_free = is_own_stack(
            frame.address,
            found.rsp,
            self._mappings,
            main_thread=self._tid == self._target.process.pid,
            thread_pointer=found.fs_base,
            descriptor=descriptor,
        )
        return frame if is_free and write_memory(self._tid, frame.address, frame.data) else None

    def _own_site(self, found: Registers, own_call: str | None) -> int:
        """The `syscall` instruction of a thread without a way back, whose call may answer 0."""
        if own_call is None:
            raise self._leave("NoSafeReturn", "user code")
        if suitability(own_call, arguments(found)) is not Suitability.ZERO_IS_LEGAL:
            raise self._leave("NoSafeReturn", own_call)
        site = int(found.rip) - len(SYSCALL_INSTRUCTION)
        if read_memory(self._tid, site, len(SYSCALL_INSTRUCTION)) != SYSCALL_INSTRUCTION:
            raise self._leave("NoSyscallInstruction")
        return site

    def _make_one(self, found: Registers, call: Syscall, site: int, stack: int | None) -> int:
        """One call: to its entry, to its exit; returns what the kernel answered."""
        number = NUMBERS[call.name]
        pid = self._target.process.pid
        ptrace.set_registers(self._tid, for_call(found, number, call.arguments, site, stack))
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


def _is_of_64_bits(registers: Registers, size: int) -> bool:
    return size == ctypes.sizeof(registers) and registers.cs == USER_CS
