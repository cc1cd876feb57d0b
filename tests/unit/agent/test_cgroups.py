"""Who lives in a container, from its cgroups' lists."""

import os
from pathlib import Path

from ksm_operator.agent.cgroups import living_in
from ksm_operator.kernel import Hierarchy, find_process


def test_who_is_known_already_is_not_read_about(tmp_path: Path) -> None:
    """On a full node the guard would read of thousands whom it has on record."""
    (tmp_path / "c" / "below").mkdir(parents=True)
    (tmp_path / "c/cgroup.procs").write_text(f"{os.getpid()}\n")
    (tmp_path / "c/below/cgroup.procs").write_text(f"{os.getppid()}\n")
    mine, parent = find_process(os.getpid()), find_process(os.getppid())
    hierarchy = Hierarchy(2, tmp_path)
    assert set(living_in(hierarchy, "/c")) == {mine, parent}
    assert living_in(hierarchy, "/c", {mine.pid}) == [parent]
