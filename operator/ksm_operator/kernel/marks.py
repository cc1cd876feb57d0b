"""What an enrolment leaves in a process, kept on record so that it can be undone exactly.

The kernel does not tell our marks from the program's, nor what a program had marked before merging
was switched on for all of it. So both are kept as lists of ranges, from before the deed on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ksm_operator.kernel.errors import Postponed
from ksm_operator.kernel.mergeable import merges_everything
from ksm_operator.kernel.procfs import (
    PROC,
    Process,
    ancestors,
    check_alive,
    live_thread,
    read_parent,
    read_stat,
)
from ksm_operator.kernel.ranges import Range, common, from_numbers, joined, to_numbers
from ksm_operator.kernel.smaps import Vma, read_vmas

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from ksm_operator.kernel.probe import Method


@dataclass(frozen=True, slots=True)
class Marks:
    """What is on record of one process.

    Attributes:
        method: `Prctl` for all of it, `Madvise` for some ranges.
        program: see `read_program`; nothing of this holds for another one.
        ranges: under `Madvise` what we marked, less what is not mapped any more; under `Prctl` what
            the program had marked itself.
        intended: what is about to be marked by `Madvise`, so that some of it may be.
    """

    method: Method
    program: int
    ranges: tuple[Range, ...] = ()
    intended: tuple[Range, ...] = ()

    @property
    def ours(self) -> tuple[Range, ...]:
        """What may be marked by us."""
        return joined((*self.ranges, *self.intended)) if self.method == "Madvise" else ()

    @property
    def own(self) -> tuple[Range, ...]:
        """What the program had marked itself before we marked all of it."""
        return self.ranges if self.method == "Prctl" else ()

    @property
    def is_plain(self) -> bool:
        """Nothing to remember but that merging is on for all of the process."""
        return self.method == "Prctl" and not self.ranges

    def marked(self, vmas: Iterable[Vma]) -> Marks:
        """After the deed: what is marked of what was intended, going by the ranges now."""
        now = list(vmas)
        done = common(self.intended, own_ranges(now))
        mapped = (Range(vma.start, vma.end) for vma in now)
        return replace(self, ranges=common((*self.ranges, *done), mapped), intended=())

    def to_list(self) -> list[Any]:
        """As JSON types, compact."""
        return [self.method, self.program, to_numbers(self.ranges), to_numbers(self.intended)]

    @classmethod
    def from_list(cls, data: Any) -> Marks:
        """Read what `to_list` gave.

        Raises:
            ValueError, TypeError: not of that form.
        """
        method, program, ranges, intended = data
        if method not in ("Prctl", "Madvise"):
            raise ValueError(f"no method: {method!r}")
        if not isinstance(program, int):
            raise TypeError(f"no program: {program!r}")
        return cls(method, program, from_numbers(ranges), from_numbers(intended))


def own_ranges(vmas: Iterable[Vma]) -> tuple[Range, ...]:
    """The ranges that are marked mergeable now."""
    return joined(Range(vma.start, vma.end) for vma in vmas if vma.is_mergeable)


def read_program(process: Process, *, proc: Path = PROC) -> int:
    """Where the stack of its program begins: another place after an exec, the same after a fork.

    The kernel chooses it at random for each program (unless told otherwise: personality(2)).

    Raises:
        ProcessGone: it exited.
        Postponed: it is about to become another program.
    """
    stat = check_alive(process, proc=proc)
    if stat.is_zombie:  # its main thread exited, and shows no memory
        stat = read_stat(process.pid, live_thread(process.pid, proc=proc), proc=proc)
    if not stat.start_stack:
        raise Postponed(process.pid, "Exec", "it shows no program at this moment")
    return stat.start_stack


def inherited(
    process: Process,
    program: int,
    records: Mapping[Process, Marks],
    parent_of: Callable[[int], int | None] = read_parent,
) -> Marks | None:
    """Which marks on record a process may have, running the program of one of them. Pure.

    Fork's child has its parent's marks. The nearest ancestor on record tells which those are; where
    it has ended, everybody on record who runs or ran that program may have been the parent.

    Args:
        process: who is on no record.
        program: its program; see `read_program`.
        records: what is known of others.
        parent_of: the parent's pid; None if there is none.
    """
    alike = {one.pid: marks for one, marks in records.items() if marks.program == program}
    if not alike:
        return None
    for pid in ancestors(process.pid, parent_of):
        if pid in alike:
            found = alike[pid]
            return replace(found, ranges=found.ours or found.own, intended=())
    by_ranges = [marks for marks in alike.values() if marks.method == "Madvise"]
    if not by_ranges:
        return next(iter(alike.values()))
    return Marks("Madvise", program, joined(each for one in by_ranges for each in one.ours))


def settle(process: Process, marks: Marks, *, proc: Path = PROC) -> Marks | None:
    """What of a record holds, where it is not known how far the deed came, or lasted.

    Returns:
        None if nothing is left of it.

    Raises:
        ProcessGone: it exited.
        Postponed: it is about to become another program.
        KernelError: no right to look.
    """
    program = read_program(process, proc=proc)
    if marks.method == "Prctl":
        if not merges_everything(process, proc=proc):
            return None
        return marks if marks.program == program else Marks("Prctl", program)
    if marks.program != program:
        return None
    found = marks.marked(read_vmas(process, proc=proc))
    return found if found.ranges else None
