"""Bulk transfers that our stop has cut short: what is left of them.

Threads in such calls are never chosen, but one that was seen waiting or computing may have entered
one by the time it stops, and the kernel ends that with what was transferred so far. The program
would see a result that it has no reason to expect, so the thread is made to transfer the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.blocking import MSG_WAITALL
from ksm_operator.kernel.x86_64 import NAMES, arguments, in_syscall, signed

if TYPE_CHECKING:
    from pathlib import Path

    from ksm_operator.kernel.x86_64 import Registers

WAITING: Final = ("pipe:", "socket:")
"""Files that a transfer waits for: what is short anywhere else is short for a reason of its own."""


@dataclass(frozen=True, slots=True)
class Rest:
    """A call that transfers what is left.

    Attributes:
        number: of the call.
        arguments: all six.
        done: bytes that were transferred before.
        whole: bytes that the program asked for.
    """

    number: int
    arguments: tuple[int, ...]
    done: int
    whole: int


def rest_of_transfer(found: Registers, files: Path) -> Rest | None:
    """What the thread would have transferred had it not been stopped; None if that is nothing.

    If the result is short for another reason, the rest ends at once with nothing more: no room
    where the program does not want to wait, the end of a file or of a connection.

    Args:
        found: the registers at the stop.
        files: the thread's /proc/TID/fd.
    """
    name, (fd, buffer, third, fourth, *others) = NAMES.get(found.orig_rax), arguments(found)
    whole = fourth if name == "sendfile" else third
    done = signed(found.rax)
    if not in_syscall(found) or not 0 < done < whole or not _waits(files, fd):
        return None
    left = whole - done
    if name in ("write", "sendto") or (name == "recvfrom" and fourth & MSG_WAITALL):
        rest: tuple[int, ...] = (fd, buffer + done, left, fourth, *others)
    elif name == "sendfile":  # the kernel has moved the offset on
        rest = (fd, buffer, third, left, *others)
    else:
        return None
    return Rest(found.orig_rax, rest, done, whole)


def _waits(files: Path, fd: int) -> bool:
    try:
        return str((files / str(fd)).readlink()).startswith(WAITING)
    except OSError:
        return False
