"""How long another thread of the target waits for a fault or an mmap while memory is released."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from benchmarks.figures import Row, table
from benchmarks.programs import Program, built
from ksm_operator.kernel import Tracer, enrol, release
from ksm_operator.kernel.enrol import set_merge
from ksm_operator.kernel.smaps import read_merged_bytes
from support import kernel, machine

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ksm_operator.kernel import Process

RUNS: Final = 5
DENSE_MIB: Final = 1024
RESERVED_GIB: Final = 256
MERGE_SECONDS: Final = 120

Act = "Callable[[Process, Tracer], object]"


def chunked(process: Process, tracer: Tracer) -> None:
    """What the agent does."""
    if not release(process, tracer, lambda: None).done:
        raise RuntimeError("not released")


def at_once(process: Process, tracer: Tracer) -> None:
    """The kernel's one call for it."""
    tracer.call(process, [set_merge(on=False, seconds=60)])


def merged(programs: list[Program], bytes_each: int) -> None:
    """Wait until ksmd has merged what the programs hold."""
    deadline = time.monotonic() + MERGE_SECONDS
    while any(read_merged_bytes(one.process) < 0.98 * bytes_each for one in programs):
        if time.monotonic() > deadline:
            raise RuntimeError(f"not merged within {MERGE_SECONDS} s")
        time.sleep(0.2)


def stalls(folder: Path, act: Callable[[Process, Tracer], object], dense: int, gib: int) -> Row:
    """The longest waits of the other thread, in milliseconds, once per run."""
    worst, tracer = [], Tracer()
    command = [str(folder / "stall"), str(dense), str(gib)]
    for _ in range(RUNS):
        with Program(*command) as first, Program(*command) as second:
            for program in (first, second):
                enrol(program.process, tracer)
            if dense:
                merged([first, second], dense << 20)
            kernel.write_setting("run", 0)
            first.forget()
            act(first.process, tracer)
            worst.append(max(first.longest(0), first.longest(1)) / 1000)
            kernel.write_setting("run", 1)
    tracer.close()
    return Row("", worst, "ms")


def main() -> None:
    """Measure and print."""
    with built("stall") as folder, machine.exclusive(), kernel.settings_put_back():
        kernel.write_setting("pages_to_scan", 50_000)
        kernel.write_setting("sleep_millisecs", 1)
        kernel.write_setting("run", 1)
        for dense, gib, title in (
            (DENSE_MIB, 0, "1 GiB merged"),
            (0, RESERVED_GIB, f"{RESERVED_GIB} GiB reserved, 16 pages of it in use"),
        ):
            rows = [
                Row(name, stalls(folder, act, dense, gib).values, "ms")
                for name, act in (("ksm-operator", chunked), ("one prctl", at_once))
            ]
            print(table(f"longest wait of another thread during release: {title}", rows))


if __name__ == "__main__":
    main()
