"""How long another thread of the target waits for a fault or an mmap while memory is released.

The longest wait is noted from visit to visit, and for as many stretches of the same length while
nobody releases anything but a program is busy beside, as the releasing one is. Without real-time
priority: such programs are never enrolled, and a real-time thread that waits for the lock spins.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final

from benchmarks.figures import Row, table, verdict
from benchmarks.merging import merged_pair
from benchmarks.programs import Program, built
from ksm_operator.kernel import (
    ReleaseProgress,
    Rooms,
    Tracer,
    find_memory_hierarchy,
    probe,
    release_all,
)
from ksm_operator.kernel.enrol import set_merge
from support import kernel, machine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ksm_operator.kernel import KernelError, Process, Syscall, Visit

RUNS: Final = 5
DENSE_MIB: Final = 1024
RESERVED_GIB: Final = 256
MOST_MS: Final = 5.0

MAPPED: Final = 0
TOUCHED: Final = 1

STRETCH_SECONDS: Final = 0.003
STRETCHES: Final = 5000


class Waits:
    """The longest waits of the other thread, in milliseconds, stretch by stretch."""

    def __init__(self, program: Program) -> None:
        self.mapped: list[float] = []
        self.touched: list[float] = []
        self._program = program
        program.forget()

    def note(self) -> None:
        """Here a stretch ends and the next begins."""
        self.mapped.append(self._program.longest(MAPPED) / 1000)
        self.touched.append(self._program.longest(TOUCHED) / 1000)
        self._program.forget()


class Noting:
    """Makes calls, and notes what was waited for before and while they were made."""

    def __init__(self, tracer: Tracer, waits: Waits) -> None:
        self._tracer = tracer
        self._waits = waits

    def call(self, process: Process, calls: Sequence[Syscall]) -> Visit:
        """See `Tracer.call`."""
        self._waits.note()
        visit = self._tracer.call(process, calls)
        self._waits.note()
        return visit


def in_steps(process: Process, tracer: Tracer, waits: Waits) -> None:
    """What the agent and `ksm-node release` do: look who pays, plan, give back.

    Raises:
        RuntimeError: something stayed merged.
    """
    outcomes: list[ReleaseProgress | KernelError] = []
    for _ in release_all(
        lambda: [process],
        Noting(tracer, waits),
        Rooms(find_memory_hierarchy(), 0.0),
        lambda _, outcome: outcomes.append(outcome),
        keeps_flags=probe().unmerge_keeps_flags is True,
    ):
        pass
    if not all(isinstance(one, ReleaseProgress) and one.done for one in outcomes):
        raise RuntimeError(f"not released: {outcomes}")


def at_once(process: Process, tracer: Tracer, _: Waits) -> None:
    """The kernel's one call for it."""
    tracer.call(process, [set_merge(on=False, seconds=60)])


def stalls(
    program: Path,
    act: Callable[[Process, Tracer, Waits], object],
    dense_mib: int,
    reserved_gib: int,
) -> tuple[list[float], list[float]]:
    """The waits for an mmap and for a fault while it is done."""
    mapped, touched = list[float](), list[float]()
    with contextlib.closing(Tracer()) as tracer:
        for _ in range(RUNS):
            with merged_pair(program, dense_mib, reserved_gib) as (first, _):
                waits = Waits(first)
                act(first.process, tracer, waits)
                waits.note()
                mapped += waits.mapped
                touched += waits.touched
    return mapped, touched


def undisturbed(program: Path) -> tuple[list[float], list[float]]:
    """The same while this program is busy with nothing."""
    with Program(str(program), "0", "0") as one:
        waits = Waits(one)
        for _ in range(STRETCHES):
            end = time.monotonic() + STRETCH_SECONDS
            while time.monotonic() < end:
                pass
            waits.note()
        return waits.mapped, waits.touched


def main() -> None:
    """Measure and print."""
    with built("stall") as folder, machine.exclusive(), kernel.as_booted():
        program = folder / "stall"
        for dense, gib, title in (
            (DENSE_MIB, 0, f"{DENSE_MIB} MiB merged"),
            (0, RESERVED_GIB, f"{RESERVED_GIB} GiB reserved, 16 pages of it in use"),
        ):
            rows = []
            for name, (mapped, touched) in (
                ("ksm-operator", stalls(program, in_steps, dense, gib)),
                ("one prctl", stalls(program, at_once, dense, gib)),
                ("nobody releases", undisturbed(program)),
            ):
                rows.append(Row(f"{name}: mmap", mapped, "ms"))
                rows.append(Row(f"{name}: fault", touched, "ms"))
            print(table(f"longest wait of another thread during release: {title}", rows))
            for row in rows[:2]:
                print(verdict(f"p99, {row.what}", row.p99, MOST_MS, "ms"))
                print(verdict(f"longest wait, {row.what}", max(row.values), MOST_MS, "ms"))
            print()


if __name__ == "__main__":
    main()
