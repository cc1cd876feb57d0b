"""Every measurement of the kernel layer, one after the other: `make bench-kernel`."""

from __future__ import annotations

import os
import platform

from benchmarks import enrolment_rate, payers_cost, release_stall, stop_time


def main() -> None:
    """Measure and print."""
    print(f"Linux {platform.release()} {platform.machine()}, {os.cpu_count()} CPUs\n")
    for part in (stop_time, enrolment_rate, payers_cost, release_stall):
        part.main()


if __name__ == "__main__":
    main()
