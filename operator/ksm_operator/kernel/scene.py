"""What a planner is told: who lives where, what they have merged, and what has room. One look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ksm_operator.kernel.errors import KernelError
from ksm_operator.kernel.headroom import NODE, Level, path_up
from ksm_operator.kernel.ksm_stat import read_ksm_stat
from ksm_operator.kernel.payers import cgroup_names, survey_steps
from ksm_operator.kernel.procfs import PROC, Process, page_size
from ksm_operator.kernel.release_plan import Member, Pages

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping
    from pathlib import Path

    from ksm_operator.kernel.headroom import Rooms
    from ksm_operator.kernel.shares import Survey


@dataclass(frozen=True, slots=True)
class Scene:
    """The processes, their pages and their cgroups, of about one moment.

    Attributes:
        members: the processes.
        pages: what they have merged.
        levels: by name, those in which one of them lives, or that pay.
        inodes: of the cgroups of the node by name, as /proc/kpagecgroup has them.
        survey: where the pages are from.
    """

    members: tuple[Member, ...]
    pages: tuple[Pages, ...]
    levels: Mapping[str, Level]
    inodes: Mapping[str, int]
    survey: Survey

    @property
    def rooms(self) -> dict[str, int | None]:
        """What each level can take; None for no limit."""
        return {name: level.room for name, level in self.levels.items()}


def look_steps(
    processes: Iterable[Process], rooms: Rooms, *, every: int | None = None, proc: Path = PROC
) -> Generator[float, None, Scene]:
    """Look at these processes in small steps.

    Args:
        processes: whose pages; each once.
        rooms: of this node.
        every: see `survey_payers`.
        proc: where procfs is mounted.

    Raises:
        KernelError, Unsupported: the kernel does not tell who pays, see `survey_payers`.
    """
    everybody = list(processes)
    steps = survey_steps(everybody, every=every, proc=proc)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            survey: Survey = end.value
            break
        yield 0.0
    hierarchy = rooms.hierarchy
    names = cgroup_names(hierarchy)
    found: dict[Path, list[Level]] = {}
    members = []
    for process in everybody:
        try:
            directory = hierarchy.directory(process.pid, proc=proc)
            if directory not in found:
                found[directory] = rooms.levels(directory)
            levels = found[directory]
            zeroes = (read_ksm_stat(process, proc=proc).zero_pages or 0) * page_size()
        except KernelError:
            levels, zeroes = [Level(NODE, None)], 0  # its turn tells why
        members.append(Member(process, tuple(level.name for level in levels), zeroes))
        yield 0.0
    for payer in {each.payer for each in survey.shared} & names.keys():
        directory = hierarchy.path(names[payer])
        if directory not in found:
            found[directory] = rooms.levels(directory)
    paths = {}
    for inode, name in names.items():
        up = path_up(hierarchy, hierarchy.path(name))
        paths[inode] = (*(hierarchy.name(level) for level in up), NODE)
    return Scene(
        members=tuple(members),
        pages=tuple(shared_pages(survey, paths)),
        levels={level.name: level for levels in found.values() for level in levels},
        inodes={name: inode for inode, name in names.items()},
        survey=survey,
    )


def shared_pages(survey: Survey, paths: Mapping[int, tuple[str, ...]]) -> list[Pages]:
    """What the planner needs to know of a survey.

    Args:
        survey: of the processes that are to be released.
        paths: of each cgroup by inode, the names of it and of all above it, then the node's.
    """
    return [
        Pages(
            payer=paths.get(each.payer, (NODE,)),
            mappers=each.mappers,
            is_shared_elsewhere=each.elsewhere > 0,
            size=each.pages * survey.every * survey.page_size,
        )
        for each in survey.shared
    ]
