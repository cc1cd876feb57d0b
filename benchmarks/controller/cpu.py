"""Who had the machine's CPUs: without it, no figure of a full machine can be understood."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from local_cluster import cgroups, processes

if TYPE_CHECKING:
    from collections.abc import Mapping

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_IDLE: Final = (3, 4)
"""Fields of /proc/stat's first line: idle, and waiting for a disk."""
_STOLEN: Final = 7
_MARKS: Final = {
    "etcd": "etcd",
    "kube-apiserver": "API server",
    "kube-controller-manager": "controller manager",
    "benchmarks.controller.agents": "simulated agents",
    "ksm_operator.controller": "controller",
}


@dataclass(frozen=True, slots=True)
class Account:
    """CPU time up to a moment, in seconds.

    Attributes:
        at: the moment, on the monotonic clock.
        of: by whom it was had; `this program` watches and plays kubelets.
        busy: of all programs of the machine.
        stolen: that the machine was not given by its host.
    """

    at: float
    of: Mapping[str, float]
    busy: float
    stolen: float


def account() -> Account:
    """Return what everybody had until now."""
    of = dict.fromkeys(_MARKS.values(), 0.0) | {"this program": sum(os.times()[:2])}
    for pid in cgroups.members("system"):
        command = processes.command_of(pid)
        words = {Path(command[0]).name, *command[1:3]} if command else set()
        for mark in words & set(_MARKS):
            of[_MARKS[mark]] += process_seconds(pid)
    fields = [
        int(one) / _TICKS for one in Path("/proc/stat").read_text().split("\n")[0].split()[1:]
    ]
    return Account(
        at=time.monotonic(),
        of=of,
        # Guests are counted among the user's already.
        busy=sum(fields[:_STOLEN]) - sum(fields[one] for one in _IDLE),
        stolen=fields[_STOLEN],
    )


def process_seconds(pid: int) -> float:
    """Return the CPU time that a process has had; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _since(before: float, after: float) -> float:
    """What a program had; of one that was started again meanwhile, its new life alone."""
    return after - before if after >= before else after


def shares(before: Account, after: Account) -> str:
    """Return who had which part of the CPUs between two moments, in one line."""
    seconds = after.at - before.at
    had = {who: _since(before.of[who], after.of[who]) for who in after.of}
    others = after.busy - before.busy - sum(had.values())
    had |= {"other programs": others, "stolen by the host": after.stolen - before.stolen}
    listed = sorted(had.items(), key=lambda pair: -pair[1])
    parts = [f"{who} {100 * one / seconds:.0f} %" for who, one in listed if one > 0]
    return f"CPU meanwhile, in % of a core ({os.cpu_count()} cores): {', '.join(parts)}."
