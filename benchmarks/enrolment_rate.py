"""How many processes a second are enrolled, and what it takes to look at one."""

from __future__ import annotations

import subprocess
import time
from typing import Final

from benchmarks.figures import Row, table
from ksm_operator.kernel import Tracer, enrol, find_process
from support import kernel, machine

PROCESSES: Final = 2500


def main() -> None:
    """Measure and print."""
    with machine.exclusive(), kernel.settings_put_back():
        programs = [
            subprocess.Popen(["sleep", "600"], stdin=subprocess.DEVNULL) for _ in range(PROCESSES)
        ]
        tracer = Tracer()
        try:
            targets = [find_process(one.pid) for one in programs]
            each, stopped = [], []
            started = time.perf_counter()
            for target in targets:
                begun = time.perf_counter()
                done = enrol(target, tracer)
                each.append((time.perf_counter() - begun) * 1e6)
                stopped.append(done.visit.stopped_ns / 1000 if hasattr(done, "visit") else 0.0)
            seconds = time.perf_counter() - started
        finally:
            tracer.close()
            for one in programs:
                one.kill()
                one.wait()
    rows = [Row("one enrolment, all of it", each, "us"), Row("of it the stop", stopped, "us")]
    print(table(f"{PROCESSES:,} sleeping processes enrolled one after the other", rows))
    print(f"{PROCESSES / seconds:,.0f} enrolments per second.\n")


if __name__ == "__main__":
    main()
