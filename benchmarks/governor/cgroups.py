"""Memory cgroups for the containers of a load, named as a kubelet names them."""

from __future__ import annotations

import contextlib
import uuid
from typing import TYPE_CHECKING

from benchmarks.agent.containers import PodTree

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from ksm_operator.kernel import Hierarchy


class Cgroups:
    """The cgroups of one run; all of them are gone after `close`."""

    def __init__(self, hierarchy: Hierarchy) -> None:
        self._hierarchy = hierarchy
        self._tree = PodTree(hierarchy)
        self._outside = hierarchy.path(f"{self._tree.root}/outside")
        self._make(self._outside)

    def make(self) -> str:
        """Make one for a container and return its name, as /proc/PID/cgroup has it."""
        _, path = self._tree.container(str(uuid.uuid4()))
        self._make(self._hierarchy.path(path))
        return path

    def inside(self, path: str, words: Sequence[str]) -> list[str]:
        """Return the command that runs another in a cgroup, with every page charged to it."""
        procs = self._hierarchy.path(path) / "cgroup.procs"
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(procs), *words]

    def put_outside(self, pids: Iterable[int]) -> None:
        """Move processes where no container is."""
        for pid in pids:
            (self._outside / "cgroup.procs").write_text(str(pid), encoding="ascii")

    def close(self) -> None:
        """Remove all; their processes have ended."""
        self._tree.remove()

    def _make(self, directory: Path) -> None:
        directory.mkdir(parents=True)
        if self._hierarchy.version == 1:
            return
        above = directory.parent
        steps = [above, *above.parents][: len(directory.relative_to(self._hierarchy.mount).parts)]
        for step in reversed(steps):
            # Where it is on already, a cgroup with processes of its own may refuse it.
            with contextlib.suppress(OSError):
                (step / "cgroup.subtree_control").write_text("+memory", encoding="ascii")
