"""Whether a process is mergeable because of us. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from ksm_operator.agent.state import Container
    from ksm_operator.kernel import Process

MOST_ANCESTORS: Final = 64


def is_ours(
    process: Process,
    container: Container,
    parent_of: Callable[[int], int | None],
    *,
    fresh: bool = False,
) -> bool:
    """Tell whether a mergeable process inherited that from one that we enrolled. Pure.

    The nearest ancestor that is on record decides. One whose ancestors are all gone was made in
    the container after us, unless something in the container asks for merging by itself.

    Args:
        process: who is mergeable and on no record.
        container: the record of its container.
        parent_of: the parent's pid; None if there is none.
        fresh: the container is met for the first time, so that nothing can be orphaned by us.
    """
    enrolled = {one.pid for one in container.enrolled}
    own = {one.pid for one in container.own}
    pid: int | None = process.pid
    for _ in range(MOST_ANCESTORS):
        pid = parent_of(pid) if pid is not None else None
        if pid is None or pid <= 1:
            break
        if pid in enrolled:
            return True
        if pid in own:
            return False
    return not own and not fresh
