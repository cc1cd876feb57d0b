"""What it takes to find out who pays for merged memory, exactly and by a sample."""

from __future__ import annotations

from typing import Final

from benchmarks.figures import Row, table
from benchmarks.merging import merged_pair
from benchmarks.programs import built
from ksm_operator.kernel import survey_payers
from support import kernel, machine

RUNS: Final = 5
DENSE_MIB: Final = 1024


def main() -> None:
    """Measure and print."""
    with (
        built("stall") as folder,
        machine.exclusive(),
        kernel.as_booted(),
        merged_pair(folder / "stall", DENSE_MIB, 0) as pair,
    ):
        processes = [program.process for program in pair]
        gib = len(pair) * DENSE_MIB / 1024
        rows = []
        for name, every in (("exact", 1), ("sampled", None)):
            costs = [survey_payers(processes, every=every).cost for _ in range(RUNS)]
            frames = costs[-1].frames
            per_gib = [cost.seconds / gib for cost in costs]
            rows.append(Row(f"{name}: {frames:,} mappings looked at, per GiB", per_gib, "s"))
        title = f"who pays for {gib:.0f} GiB of merged mappings of {len(pair)} processes"
        print(table(title, rows))


if __name__ == "__main__":
    main()
