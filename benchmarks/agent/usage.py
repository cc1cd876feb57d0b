"""What the agent and its helper cost: CPU, memory, system calls."""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.controller.cpu import process_seconds
from benchmarks.enrolment_rate import memory

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Usage:
    """Of some processes, over some time.

    Attributes:
        cpu_share: of one core.
        rss: MiB, each process's resident memory added up.
        pss: MiB, with what they share counted once.
        calls: system calls a minute; None where nobody can count them (no perf).
    """

    cpu_share: float
    rss: float
    pss: float
    calls: float | None


def observe(pids: Sequence[int], seconds: float) -> Usage:
    """Watch processes for some time."""
    before, began = sum(map(process_seconds, pids)), time.monotonic()
    calls = _system_calls(pids, seconds)
    time.sleep(max(0.0, seconds - (time.monotonic() - began)))
    used = sum(map(process_seconds, pids)) - before
    elapsed = time.monotonic() - began
    sizes = [memory(pid) for pid in pids]
    return Usage(
        cpu_share=used / elapsed,
        rss=sum(rss for rss, _ in sizes),
        pss=sum(pss for _, pss in sizes),
        calls=None if calls is None else calls * 60 / seconds,
    )


def _system_calls(pids: Sequence[int], seconds: float) -> int | None:
    perf = shutil.which("perf")
    if perf is None:
        return None
    done = subprocess.run(
        [
            *(perf, "stat", "-x", ",", "-e", "raw_syscalls:sys_enter"),
            *("-p", ",".join(map(str, pids)), "--", "sleep", str(seconds)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    count = done.stderr.split(",")[0].strip()
    return int(count) if done.returncode == 0 and count.isdecimal() else None
