import subprocess
import sys
from pathlib import Path

import pytest

from local_cluster import cgroups
from local_cluster.processes import Service, find

FORKS = "import os, sys; os.fork(); print(flush=True); sys.stdin.read()"
"""A program that is there twice, until its standard input is closed."""


def test_a_service_is_not_its_own_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that starts another is there twice for a moment; the second one ends at once."""
    command = (sys.executable, "-c", FORKS)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as forking:
        assert forking.stdout is not None
        forking.stdout.readline()
        forking.stdout.readline()
        children = Path(f"/proc/{forking.pid}/task/{forking.pid}/children").read_text().split()
        for pids in ([forking.pid, *map(int, children)], [*map(int, children), forking.pid]):
            monkeypatch.setattr(cgroups, "members", lambda _name, pids=pids: pids)
            assert find(Service("forking", command)) == forking.pid
        forking.communicate()
