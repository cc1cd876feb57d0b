"""Whether a process is mergeable because of us. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ksm_operator.kernel.procfs import ancestors

if TYPE_CHECKING:
    from collections.abc import Callable

    from ksm_operator.agent.state import Container
    from ksm_operator.kernel import Process


def is_ours(process: Process, container: Container, parent_of: Callable[[int], int | None]) -> bool:
    """Tell whether one that merges as a whole inherited that from one that we enrolled. Pure.

    The nearest ancestor that is on record decides. One whose ancestors are all gone was made in
    the container after us, unless something in the container asks for merging by itself.

    Args:
        process: who merges and is on no record.
        container: the record of its container.
        parent_of: the parent's pid; None if there is none.
    """
    whole = {one.pid for one in container.enrolled if not container.is_by_ranges(one)}
    others = {one.pid for one in container.enrolled | container.own} - whole
    for pid in ancestors(process.pid, parent_of):
        if pid in whole:
            return True
        if pid in others:
            return False
    return not container.own
