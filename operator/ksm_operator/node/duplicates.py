"""`ksm-node duplicates`: how much of the memory of some processes is there more than once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from ksm_operator.kernel import (
    KernelError,
    KsmSysfs,
    Process,
    ProcessGone,
    find_process,
    read_stat,
)
from ksm_operator.kernel.duplicates import count_duplicates
from ksm_operator.node.selection import (
    add_arguments,
    cgroup_directory,
    open_hierarchy,
    processes_in,
)

if TYPE_CHECKING:
    import argparse

    from ksm_operator.kernel.duplicates import Duplicates

MIB: Final = 1 << 20


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `ksm-node`."""
    duplicates = commands.add_parser(
        "duplicates",
        help="count identical pages of processes, merged or not; changes nothing",
        description="Read every page that ksmd could merge in these processes and count identical "
        "ones. Changes nothing; costs about 10 microseconds of CPU a page.",
    )
    add_arguments(duplicates)


def run_duplicates(options: argparse.Namespace) -> str:
    """The command's output.

    Raises:
        KernelError: no such process or cgroup, or it cannot be read.
    """
    processes = _processes(options.pids, options.cgroup)
    if not processes:
        raise KernelError("no process to look at: name PIDs, or a --cgroup that has some")
    names = _names(processes)
    limit = KsmSysfs().read().max_page_sharing
    report = to_dict(count_duplicates(processes, max_page_sharing=limit), names)
    return json.dumps(report, indent=2) if options.output == "json" else render(report)


def _processes(wanted: list[int], cgroups: list[str]) -> list[Process]:
    found = {find_process(pid): None for pid in wanted}
    if cgroups:
        hierarchy = open_hierarchy()
        directories = [cgroup_directory(hierarchy, cgroup) for cgroup in cgroups]
        found |= dict.fromkeys(processes_in(directories))
    return list(found)


def _names(processes: list[Process]) -> dict[int, str]:
    names = {}
    for process in processes:
        try:
            names[process.pid] = read_stat(process.pid).comm
        except ProcessGone:
            names[process.pid] = ""
    return names


def to_dict(counted: Duplicates, names: dict[int, str]) -> dict[str, Any]:
    """As JSON types; `names` are the processes' by pid."""
    size = counted.page_size
    return {
        "privateBytes": counted.pages * size,
        "duplicateBytes": counted.duplicate_bytes,
        "distinctBytes": counted.distinct * size,
        "zeroBytes": counted.zero_pages * size,
        "forkSharedBytes": counted.forked_pages * size,
        "pageSize": size,
        "processes": [
            {
                "pid": each.process.pid,
                "name": names[each.process.pid],
                "privateBytes": each.pages * size,
                "zeroBytes": each.zero_pages * size,
                "complete": each.complete,
            }
            for each in counted.processes
        ],
    }


def render(report: dict[str, Any]) -> str:
    """The same for a person."""
    private, duplicate = report["privateBytes"], report["duplicateBytes"]
    share = 100 * duplicate / private if private else 0.0
    lines = [
        f"Private memory  {private / MIB:9.1f} MiB in {len(report['processes'])} processes",
        f"Duplicates      {duplicate / MIB:9.1f} MiB, {share:.1f} %: what merging all of it saves",
        f"Zeroes          {report['zeroBytes'] / MIB:9.1f} MiB of pages without any content",
        f"Shared by fork  {report['forkSharedBytes'] / MIB:9.1f} MiB, not in the figures above",
        "",
        f"{'PID':>8} {'PRIVATE MiB':>11} {'ZEROES MiB':>10}  NAME",
    ]
    lines += [
        f"{each['pid']:>8} {each['privateBytes'] / MIB:>11.1f} {each['zeroBytes'] / MIB:>10.1f}  "
        f"{each['name']}{'' if each['complete'] else ' (exited meanwhile)'}"
        for each in report["processes"]
    ]
    return "\n".join(lines)
