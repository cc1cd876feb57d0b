"""What `ksm-node status` shows: read once, then rendered."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ksm_operator.kernel import (
    KsmSysfs,
    ProcessGone,
    find_ksmd,
    ksmd_cpu_ns,
    mergeable_processes,
    page_size,
    probe,
    read_stat,
)
from ksm_operator.kernel.procfs import read_cgroup

MIB = 1 << 20


def read_status() -> dict[str, Any]:
    """Everything, as JSON types.

    Raises:
        Unsupported: this kernel has no KSM.
    """
    features = probe()
    values = KsmSysfs().read()
    ksmd = find_ksmd()
    processes: list[dict[str, Any]] = []
    for found in mergeable_processes():
        try:
            name = read_stat(found.process.pid).comm
            paths = read_cgroup(found.process.pid)
        except ProcessGone:
            continue
        processes.append(
            {
                "pid": found.process.pid,
                "name": name,
                "cgroup": paths.get("memory", paths.get("", "")),
                "byPrctl": found.stat.merge_any,
                "mergedBytes": (found.stat.merging_pages or 0) * page_size(),
                "profitBytes": found.stat.process_profit,
            }
        )
    processes.sort(key=lambda process: (-process["mergedBytes"], process["pid"]))
    return {
        "kernel": features.to_dict(),
        "ksmd": {name: value for name, value in asdict(values).items() if value is not None},
        "ksmdPid": ksmd,
        "ksmdCpuSeconds": None if ksmd is None else round(ksmd_cpu_ns(ksmd) / 1e9, 3),
        "savedBytes": values.saved_bytes(page_size()),
        "profitBytes": values.general_profit,
        "processes": processes,
    }


def render_status(status: dict[str, Any]) -> str:
    """The same for a person."""
    kernel, ksmd = status["kernel"], status["ksmd"]
    run = {0: "stopped", 1: "scanning", 2: "unmerging"}.get(ksmd.get("run"), "?")
    lines = [
        f"Kernel    {kernel['release']} {kernel['machine']}, enrols by {kernel['method'] or '-'}",
    ]
    if kernel["unsupported"]:
        lines.append(f"          {kernel['unsupported']}")
    pace = f"{ksmd.get('pages_to_scan')} pages every {ksmd.get('sleep_millisecs')} ms"
    advisor = f"advisor {ksmd.get('advisor_mode', 'none')}"
    lines += [
        f"ksmd      {run}, {pace}, {advisor}, {ksmd.get('full_scans')} full scans",
        f"          {_cpu(status['ksmdCpuSeconds'])} since boot",
        f"Saved     {status['savedBytes'] / MIB:.1f} MiB{_profit(status['profitBytes'])}",
        f"Mergeable {len(status['processes'])} processes",
    ]
    if status["processes"]:
        lines.append("")
        lines.append(f"{'PID':>8} {'MERGED MiB':>10} {'PROFIT MiB':>10}  {'NAME':<15} CGROUP")
        lines += [
            f"{process['pid']:>8} {process['mergedBytes'] / MIB:>10.1f} "
            f"{_mib(process['profitBytes']):>10}  {process['name']:<15} {process['cgroup']}"
            for process in status["processes"]
        ]
        lines.append("")
        lines.append(
            "A merged page counts in every process that maps it: the column adds up to more."
        )
    return "\n".join(lines)


def _cpu(seconds: float | None) -> str:
    if seconds is None:
        return "CPU unknown: this pid namespace does not show kernel threads,"
    return f"{seconds:.3f} s of CPU"


def _profit(value: int | None) -> str:
    return "" if value is None else f", {value / MIB:.1f} MiB after ksmd's own records"


def _mib(value: int | None) -> str:
    return "-" if value is None else f"{value / MIB:.1f}"
