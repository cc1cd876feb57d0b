"""`ksm-node relieve`: room for a cgroup that pays for memory which others share."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Final

from ksm_operator.kernel import (
    KernelError,
    Process,
    Relief,
    Rooms,
    mergeable_processes,
    merges_everything,
    read_stat,
    relieve,
    walk,
)
from ksm_operator.kernel.headroom import NODE, path_up
from ksm_operator.node.change import MIB, RESERVE_SHARE, open_tracer
from ksm_operator.node.record import Record
from ksm_operator.node.selection import add_cgroups, cgroup_directory, open_hierarchy

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from pathlib import Path

    from ksm_operator.kernel import Hierarchy

COMMAND: Final = "relieve"


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `ksm-node`."""
    command = commands.add_parser(
        COMMAND,
        help="break sharing in others, so that a cgroup has room for all that it had merged",
        description="A cgroup that pays for merged pages pays on when its own processes have "
        "written to their memory, as long as others map the pages. Where it, or a cgroup above or "
        "below it, has no room for that, others give pages back that it pays for, within their own "
        "room. What they gave back stays unmerged until they are released and enrolled again.",
    )
    add_cgroups(command)


def relieve_cgroups(cgroups: Sequence[str], record: Path) -> dict[str, Any]:
    """Do it; returns what was done, as JSON types.

    Args:
        cgroups: as a person named them.
        record: file with the ranges that were marked by `ksm-node enrol`.

    Raises:
        Unsupported: this kernel or machine cannot; nothing was touched.
        KernelError: no such cgroup, or the record is not understood; nothing was touched.
    """
    features, tracer = open_tracer()
    try:
        hierarchy, known = open_hierarchy(), Record(record)
        directories = [cgroup_directory(hierarchy, one) for one in cgroups]
        guarded = {
            hierarchy.name(level)
            for directory in directories
            for level in (*walk(directory), *path_up(hierarchy, directory))
        }
        steps = relieve(
            lambda: [one.process for one in mergeable_processes()],
            lambda process: _comes_back(process, known),
            tracer,
            Rooms(hierarchy, RESERVE_SHARE),
            marks_of=known.get,
            guarded=guarded,
            keeps_flags=features.unmerge_keeps_flags is True,
        )
        while True:
            try:
                time.sleep(next(steps))
            except StopIteration as end:
                return describe(end.value, hierarchy)
    finally:
        tracer.close()


def _comes_back(process: Process, known: Record) -> bool:
    """Whether a release brings it back to what it was, whatever it gave back before."""
    try:
        marks = known.get(process)
        by_ranges = marks is not None and marks.method == "Madvise"
        return by_ranges or merges_everything(process)
    except KernelError:
        return False


def describe(relief: Relief, hierarchy: Hierarchy) -> dict[str, Any]:
    """What was done, as JSON types."""
    return {
        "givenBack": [
            {
                **_who(process, hierarchy),
                "bytes": size,
                "ranges": [[each.start, each.end] for each in relief.ranges[process]],
            }
            for process, size in sorted(relief.given_back.items())
        ],
        "exposed": [
            {
                "cgroup": one.level,
                "lackingBytes": one.lacking_bytes,
                "sharedBytes": one.shared_bytes,
            }
            for one in relief.exposed
        ],
    }


def _who(process: Process, hierarchy: Hierarchy) -> dict[str, Any]:
    try:
        name = read_stat(process.pid).comm
        cgroup: str | None = hierarchy.name(hierarchy.directory(process.pid))
    except KernelError:
        name, cgroup = "", None  # it exited since
    return {"pid": process.pid, "name": name, "cgroup": cgroup}


def render(report: dict[str, Any], form: str) -> str:
    """The same for a person, or for a program."""
    if form == "json":
        return json.dumps(report, indent=2)
    lines = [
        f"{one['pid']} {one['name']} in {one['cgroup']}: {one['bytes'] / MIB:.1f} MiB given back "
        "to it; they stay unmerged until it is released and enrolled again"
        for one in report["givenBack"]
    ]
    if not lines and not report["exposed"]:
        lines.append("nothing to break: there is room for all that was merged")
    lines += [_exposed(one) for one in report["exposed"]]
    return "\n".join(lines)


def _exposed(one: dict[str, Any]) -> str:
    who = "the node" if one["cgroup"] == NODE else f"cgroup {one['cgroup']}"
    lacking = f"{who} lacks {one['lackingBytes'] / MIB:.1f} MiB of room for what it had merged"
    if one["sharedBytes"]:
        return (
            f"{lacking}: others that map pages it pays for have no room themselves, or merge only "
            "some ranges; raise a limit or free memory, then try again"
        )
    return f"{lacking}, and would without merging: raise its limit or free memory"
