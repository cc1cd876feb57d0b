"""Who is on record as enrolled, held against the processes that live now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ksm_operator.agent.descent import is_ours
from ksm_operator.kernel import (
    KernelError,
    Marks,
    Process,
    ProcessGone,
    merges_everything,
    read_program,
    read_vmas,
    settle,
)
from ksm_operator.kernel.marks import inherited, own_ranges
from ksm_operator.kernel.procfs import read_parent
from ksm_operator.kernel.ranges import common

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ksm_operator.agent.state import Container


WHOLE: Final = Marks("Prctl", 0)
"""What is on record of a process for which nothing more is to be remembered."""


def adopt(process: Process, container: Container) -> bool:
    """Put a process on record that merges because it descends from one that we enrolled.

    Returns:
        Whether it does.

    Raises:
        ProcessGone: it exited.
        KernelError: no right to look.
    """
    marks = inherited(process, read_program(process), container.marks)
    if marks is not None and marks.method == "Madvise":
        if not common(own_ranges(read_vmas(process)), marks.ranges):
            return False
    elif not merges_everything(process) or not is_ours(process, container, read_parent):
        return False
    container.put(process, marks)
    return True


def adopt_all(processes: Iterable[Process], container: Container) -> None:
    """Do so with each that is on no record; those that cannot be looked at are passed over."""
    for process in processes:
        if process in container.enrolled or process in container.own:
            continue
        try:
            adopt(process, container)
        except KernelError:
            continue


def forget_if_empty(
    containers: dict[str, Container], container: Container, living: Iterable[Process]
) -> None:
    """Take a container off the record once all who were enrolled in it have been let go.

    An empty record would say of whoever asks for merging by himself later that he inherited it.

    Args:
        containers: the record.
        container: one from which processes have just been let go.
        living: who lives in it now, children that were forked meanwhile among them.
    """
    adopt_all(living, container)
    if not (container.enrolled or container.own or container.marks):
        containers.pop(container.path, None)


def keep_what_holds(process: Process, container: Container) -> bool:
    """Correct the record of a process after a deed of which it is not known how far it came.

    Returns:
        Whether anything of it is enrolled.
    """
    try:
        holds = settle(process, container.marks.get(process, WHOLE))
    except ProcessGone:
        container.enrolled.discard(process)  # its children, if any, are told by its marks
        return False
    except KernelError:
        return True  # the record says more than is so, never less
    if holds is None:
        container.drop(process)
    else:
        container.put(process, holds)
    return holds is not None
