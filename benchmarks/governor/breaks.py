"""What one copy-on-write break of a merged page costs on this machine, measured."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Final

from benchmarks.governor.loads import Container
from benchmarks.governor.program import Program, command
from ksm_operator.kernel import read_ksm_stat

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.governor.node import Node

PAGES: Final = 4096
"""Of each of two areas."""
ROUNDS: Final = 7
MERGED_SHARE: Final = 0.98
MERGE_SECONDS: Final = 60.0
QUICK: Final[dict[str, int | str]] = {
    "smart_scan": 0,
    "pages_to_scan": 20_000,
    "sleep_millisecs": 1,
}


def cost_of_break(merged_ns: int, private_ns: int, breaks: int) -> float:
    """Return the CPU seconds that a break costs beyond the write itself. Pure.

    Args:
        merged_ns: CPU time to write to every page, most of them merged.
        private_ns: the same again, when none is.
        breaks: how many were merged (cow_ksm).
    """
    return max(0, merged_ns - private_ns) / 1e9 / max(1, breaks)


def measure(node: Node, classes: Path) -> float:
    """Return the median of some rounds; the caller has ksmd to itself.

    Raises:
        RuntimeError: ksmd did not merge the pages in time.
    """
    program = Program(*command(Container("breaker", (str(PAGES),)), classes))
    try:
        program.expect("started")
        program.tell("go")
        program.expect("ready")
        return statistics.median(_round(node, program) for _ in range(ROUNDS))
    finally:
        program.end()


def _round(node: Node, program: Program) -> float:
    node.write(QUICK | {"run": 1})
    deadline = time.monotonic() + MERGE_SECONDS
    while (read_ksm_stat(program.process).merging_pages or 0) < MERGED_SHARE * 2 * PAGES:
        if time.monotonic() > deadline:
            raise RuntimeError(f"not merged within {MERGE_SECONDS:.0f} s")
        time.sleep(0.1)
    # What is written to now has to stay private until it is written to again.
    node.write({"run": 0})
    before = node.counters().breaks
    merged = _write(program)
    breaks = node.counters().breaks - before
    return cost_of_break(merged, _write(program), breaks)


def _write(program: Program) -> int:
    program.tell("write")
    return int(program.line())
