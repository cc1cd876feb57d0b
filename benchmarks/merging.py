"""Pairs of programs with the same memory, merged by ksmd before anything is measured."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final

from benchmarks.programs import Program
from ksm_operator.kernel import Tracer, enrol
from ksm_operator.kernel.smaps import read_merged_bytes
from support import kernel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MERGE_SECONDS: Final = 300
ENOUGH: Final = 0.98


@contextlib.contextmanager
def merged_pair(program: Path, dense_mib: int, reserved_gib: int) -> Iterator[tuple[Program, ...]]:
    """Two `stall` programs, enrolled, all their dense memory merged; ksmd stands still then.

    The caller holds the machine's lock and puts ksmd's settings back.

    Raises:
        RuntimeError: ksmd did not merge it in time.
    """
    command = [str(program), str(dense_mib), str(reserved_gib)]
    with Program(*command) as first, Program(*command) as second:
        with contextlib.closing(Tracer()) as tracer:
            for one in (first, second):
                enrol(one.process, tracer)
        kernel.write_setting("pages_to_scan", 50_000)
        kernel.write_setting("sleep_millisecs", 1)
        kernel.write_setting("run", 1)
        deadline = time.monotonic() + MERGE_SECONDS
        wanted = ENOUGH * (dense_mib << 20)
        while any(read_merged_bytes(one.process) < wanted for one in (first, second)):
            if time.monotonic() > deadline:
                raise RuntimeError(f"not merged within {MERGE_SECONDS} s")
            time.sleep(0.2)
        kernel.write_setting("run", 0)
        yield first, second
