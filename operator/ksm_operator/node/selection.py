"""Which processes a command is about: those named by pid, and those of a cgroup."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel import (
    Hierarchy,
    KernelError,
    Process,
    ProcessGone,
    find_memory_hierarchy,
    find_process,
    join_host_cgroup_namespace,
    pids,
    walk,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

VERSION_2: Final = 2


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Let a command take PIDs and cgroups."""
    command.add_argument("pids", nargs="*", type=pid, metavar="PID")
    add_cgroups(command)


def add_cgroups(command: argparse.ArgumentParser) -> None:
    """Let a command take cgroups."""
    command.add_argument(
        "--cgroup",
        action="append",
        default=[],
        metavar="PATH",
        help="all processes of a cgroup and of those below it: a directory, or the path that "
        "/proc/PID/cgroup has; repeat it for several",
    )


def pid(text: str) -> int:
    """A process id on a command line."""
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a process id")
    return int(text)


def open_hierarchy() -> Hierarchy:
    """The memory cgroups, with the paths that the host sees.

    Raises:
        Unsupported: no memory cgroups are mounted.
    """
    hierarchy = find_memory_hierarchy()
    if hierarchy.version == VERSION_2:  # where a container has a namespace of its own
        join_host_cgroup_namespace()
        hierarchy = find_memory_hierarchy()
    return hierarchy


def cgroup_directory(hierarchy: Hierarchy, cgroup: str) -> Path:
    """Where a cgroup named on a command line is.

    Raises:
        KernelError: there is none of that name.
    """
    path = Path(cgroup)
    if path.is_absolute() and path.is_relative_to(hierarchy.mount):
        directory = path
    else:
        directory = hierarchy.path("/" + cgroup.lstrip("/"))
    if ".." in path.parts or not directory.is_dir():
        raise KernelError(
            f"no cgroup {cgroup} in the memory hierarchy at {hierarchy.mount}: name a directory "
            "there, or a path as /proc/PID/cgroup has it"
        )
    return directory


def processes_in(directories: Iterable[Path]) -> list[Process]:
    """Everybody in these cgroups and below, each once, in the order of their pids."""
    found = set()
    for directory in directories:
        for number in (number for below in walk(directory) for number in pids(below)):
            try:
                found.add(find_process(number))
            except ProcessGone:
                continue
    return sorted(found)
