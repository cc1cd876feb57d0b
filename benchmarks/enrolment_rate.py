"""How many processes a second are enrolled through the helper, and what memory the helper takes."""

from __future__ import annotations

import contextlib
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.figures import Row, table
from benchmarks.programs import built
from ksm_operator.kernel import (
    Enrolled,
    Helper,
    Intent,
    carry_out_many,
    find_process,
    prepare,
    probe,
)
from support import kernel, machine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ksm_operator.kernel import Process

PROCESSES: Final = 2500
AT_ONCE: Final = 50
"""Processes handed over in one go, as of one pod's containers; the helper's batches are smaller."""


@contextlib.contextmanager
def idle(program: Path, count: int) -> Iterator[list[Process]]:
    """So many small processes that sleep."""
    command = [str(program), str(count)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        if parent.stdout is None:
            raise RuntimeError("no pipe to the processes")
        pids = [int(line) for line in iter(parent.stdout.readline, "ready\n")]
        yield [find_process(pid) for pid in pids]


def memory(pid: int) -> tuple[float, float]:
    """Resident and proportional memory of a process, in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    figures = dict(line.split(":") for line in lines[1:])
    rss, pss = (int(figures[name].split()[0]) / 1024 for name in ("Rss", "Pss"))
    return rss, pss


def main() -> None:
    """Measure and print.

    Raises:
        RuntimeError: a process was not enrolled.
    """
    each, stopped = list[float](), list[float]()
    rss, pss = list[float](), list[float]()
    with (
        built("idle") as folder,
        machine.exclusive(),
        kernel.as_booted(),
        idle(folder / "idle", PROCESSES) as targets,
        contextlib.closing(Helper()) as helper,
    ):
        # ksmd stands still: the scan of thousands of processes is not what is measured.
        features = probe()
        for first in range(0, PROCESSES, AT_ONCE):
            some = targets[first : first + AT_ONCE]
            begun = time.perf_counter()
            prepared = [prepare(one, features) for one in some]
            intents = [one for one in prepared if isinstance(one, Intent)]
            outcomes = carry_out_many(intents, helper)
            each.append((time.perf_counter() - begun) / len(some) * 1e6)
            visits = [one.visit for one in outcomes if isinstance(one, Enrolled)]
            if len(visits) < len(some):
                raise RuntimeError(f"not all enrolled: {outcomes}")
            stopped += [visit.stopped_ns / 1000 for visit in visits]
            if helper.pid is not None:
                resident, proportional = memory(helper.pid)
                rss.append(resident)
                pss.append(proportional)
    title = f"{PROCESSES:,} sleeping processes enrolled through the helper, {AT_ONCE} at a time"
    rows = [
        Row("one enrolment, all of it", each, "us"),
        Row("of it the stop, on the helper's clock", stopped, "us"),
        Row("helper process, RSS", rss, "MiB"),
        Row("helper process, PSS", pss, "MiB"),
    ]
    print(table(title, rows))
    print(f"{len(each) * 1e6 / sum(each):,.0f} enrolments per second.\n")


if __name__ == "__main__":
    main()
