"""The seam between machines: what a processor architecture has to bring to make remote calls."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from ksm_operator.kernel import aarch64, aarch64_caller, x86_64, x86_64_caller
from ksm_operator.kernel.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ksm_operator.kernel.attached import Attached
    from ksm_operator.kernel.remote import Syscall
    from ksm_operator.kernel.threads import Candidate


class Caller(Protocol):
    """Makes calls through one thread, from before the seize to the detach.

    Attributes:
        blocked_in: see `threads.Candidate`, as it was seen last. A call that the kernel takes up
            again (restart_syscall) has no other name in the registers.
    """

    blocked_in: str

    def before_interrupt(self) -> None:
        """The thread is seized and still runs: note what can be read now.

        Never raises a `KernelError`: a thread that runs cannot be let go. What could not be read is
        said in `make`.
        """

    def note_call(self) -> None:
        """It is seized or interrupted right after this: note what its registers will not tell.

        Never raises a `KernelError`, as `before_interrupt`.
        """

    def undo_eintr(self, signal: int) -> None:
        """A stop, our own or for a signal that is delivered next: it must not end a call.

        Has the thread make its call again that ends with EINTR now, unless a handler of the program
        is about to run. Never raises a `KernelError`.

        Raises:
            OSError: the kernel refused a request.
        """

    def make(self, calls: Sequence[Syscall]) -> tuple[int, ...]:
        """The thread stands in our stop: let it make the calls, and return the kernel's answers.

        Sets `Attached.give_back` before the first register is changed. Returns with the thread
        stopped; whatever it raises, it has called `Attached.leave` before.

        Raises:
            ThreadUnsuitable: another thread may serve; nothing was changed.
            Postponed: not now.
            Refused: a 32-bit task.
            OSError: the kernel refused a request; the thread has not been left.
        """

    def caught_in(self) -> str:
        """Name of the system call that the thread was stopped in, or `user code`."""

    def safeguard(self) -> str:
        """What the thread falls back on if its tracer dies; see `Visit.safeguard`."""


@dataclass(frozen=True, slots=True)
class Machine:
    """One processor architecture.

    Attributes:
        name: as uname(2) says it.
        names: system calls by number, as /proc/TID/syscall gives them.
        caller: makes calls through one thread.
    """

    name: str
    names: Mapping[int, str]
    caller: Callable[[Attached, Candidate], Caller]


POINTERS_OF_64_BITS: Final = 1 << 32

MACHINES: Final = {
    "aarch64": Machine("aarch64", aarch64.NAMES, aarch64_caller.Aarch64Caller),
    "x86_64": Machine("x86_64", x86_64.NAMES, x86_64_caller.X8664Caller),
}


def this_machine(name: str | None = None) -> Machine:
    """The machine that this runs on.

    Raises:
        Unsupported: its registers are not known here.
    """
    name = name or platform.machine()
    machine = MACHINES.get(name)
    if machine is None or sys.maxsize < POINTERS_OF_64_BITS:
        raise Unsupported(
            f"machine {name}: remote system calls are known for 64-bit {', '.join(MACHINES)} only"
        )
    return machine
