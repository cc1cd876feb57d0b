"""How long another thread of the target waits for a fault or an mmap while memory is released."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from benchmarks.figures import Row, table, verdict
from benchmarks.merging import merged_pair
from benchmarks.programs import ahead_of_others, built
from ksm_operator.kernel import Tracer, release
from ksm_operator.kernel.enrol import set_merge
from support import kernel, machine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ksm_operator.kernel import Process

RUNS: Final = 5
DENSE_MIB: Final = 1024
RESERVED_GIB: Final = 256
MOST_MS: Final = 5.0

MAPPED: Final = 0
TOUCHED: Final = 1


def in_steps(process: Process, tracer: Tracer) -> None:
    """What the agent does.

    Raises:
        RuntimeError: something stayed merged.
    """
    if not release(process, tracer, lambda: None).done:
        raise RuntimeError("not released")


def at_once(process: Process, tracer: Tracer) -> None:
    """The kernel's one call for it."""
    tracer.call(process, [set_merge(on=False, seconds=60)])


def stalls(
    program: Path, act: Callable[[Process, Tracer], object], dense_mib: int, reserved_gib: int
) -> tuple[list[float], list[float]]:
    """The longest wait for an mmap and for a fault, in milliseconds, once per run."""
    mapped, touched = list[float](), list[float]()
    with contextlib.closing(Tracer()) as tracer:
        for _ in range(RUNS):
            with merged_pair(program, dense_mib, reserved_gib) as (first, _):
                with ahead_of_others(first.popen.pid):
                    first.forget()
                    act(first.process, tracer)
                mapped.append(first.longest(MAPPED) / 1000)
                touched.append(first.longest(TOUCHED) / 1000)
    return mapped, touched


def main() -> None:
    """Measure and print."""
    with built("stall") as folder, machine.exclusive(), kernel.settings_put_back():
        for dense, gib, title in (
            (DENSE_MIB, 0, f"{DENSE_MIB} MiB merged"),
            (0, RESERVED_GIB, f"{RESERVED_GIB} GiB reserved, 16 pages of it in use"),
        ):
            rows = []
            for name, act in (("ksm-operator", in_steps), ("one prctl", at_once)):
                mapped, touched = stalls(folder / "stall", act, dense, gib)
                rows.append(Row(f"{name}: mmap", mapped, "ms"))
                rows.append(Row(f"{name}: fault", touched, "ms"))
            print(table(f"longest wait of another thread during release: {title}", rows))
            for row in rows[:2]:
                print(verdict(f"longest wait, {row.what}", max(row.values), MOST_MS, "ms"))
            print()


if __name__ == "__main__":
    main()
