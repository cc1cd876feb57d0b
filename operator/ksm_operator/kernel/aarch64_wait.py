"""The wait of an aarch64 thread that our stop ends with EINTR, and how it is taken up again.

The first argument of the call is lost then. It is what was noted before, if the thread has not
left that very wait in between.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ksm_operator.kernel import ptrace
from ksm_operator.kernel.aarch64 import (
    EINTR,
    INSTRUCTION_BYTES,
    Place,
    Registers,
    Waited,
    parse_waited,
    place,
    rewound,
    signed,
)
from ksm_operator.kernel.errors import KernelError
from ksm_operator.kernel.procfs import read_file, read_status
from ksm_operator.kernel.remote_memory import read_memory
from ksm_operator.kernel.signals import runs_handler

if TYPE_CHECKING:
    from ksm_operator.kernel.attached import Attached


@dataclass(frozen=True, slots=True)
class Ended:
    """A call that was ended.

    Attributes:
        found: the thread with the EINTR.
        again: the thread about to make the call again.
    """

    found: Registers
    again: Registers


class Wait:
    """What one thread waits in, from before the seize to its stop."""

    def __init__(self, target: Attached) -> None:
        self._target = target
        self._waited: Waited | None = None
        self._switches = 0
        self._ended: Ended | None = None

    def note(self) -> None:
        """Note its call. A thread that stands in a stop shows none: what was noted last remains."""
        target = self._target
        file = f"{target.proc}/{target.process.pid}/task/{target.tid}/syscall"
        with contextlib.suppress(KernelError, OSError):
            # In this order: if it leaves its wait between the two, the number tells.
            switches = self._read_switches()
            waited = parse_waited(read_file(file, target.process.pid).decode())
            if waited is not None:
                self._waited, self._switches = waited, switches

    def undo_eintr(self, signal: int) -> Ended | None:
        """In a stop: have it make the call again that this ended; returns what was ended.

        The kernel has decided already that it does not, and asks no more whether a handler runs.

        Args:
            signal: that is delivered next. A handler of it shall find that the call was ended.
        """
        found = Registers()
        if ptrace.get_registers(self._target.tid, found) != len(bytes(found)):
            return None
        # In a second stop it is as the first one left it.
        if self._ended is None or bytes(found) != bytes(self._ended.again):
            self._ended = self._find(found)
        if self._ended is not None:
            # The program is safe from the EINTR as of now; only a signal brings it back.
            self.give_back(signal)
        return self._ended

    def give_back(self, signal: int) -> None:
        """Registers of the ended call, for a thread that goes on with this signal or with none."""
        if self._ended is not None:
            target = self._target
            runs = runs_handler(target.process.pid, target.tid, signal, proc=target.proc)
            ptrace.set_registers(target.tid, self._ended.found if runs else self._ended.again)

    def _find(self, found: Registers) -> Ended | None:
        if signed(found.x[0]) != -EINTR or self._waited is None:
            return None
        tid = self._target.tid
        before = read_memory(tid, found.pc - INSTRUCTION_BYTES, INSTRUCTION_BYTES)
        at = read_memory(tid, found.pc, INSTRUCTION_BYTES)
        if place(found, before, at, self._waited) is not Place.AFTER_EINTR:
            return None
        try:
            switches = self._read_switches()
        except (KernelError, OSError):
            return None
        # One more: it has fallen asleep in our stop, and nowhere else.
        if switches != self._switches + 1:
            return None
        return Ended(found, rewound(found, self._waited))

    def _read_switches(self) -> int:
        """How often it has fallen asleep."""
        target = self._target
        status = read_status(target.process.pid, target.tid, proc=target.proc)
        return int(status["voluntary_ctxt_switches"])
