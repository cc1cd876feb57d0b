"""Processes that join a container which runs already, on either version of cgroups."""

import queue
import secrets
import uuid
from pathlib import Path

import pytest

from kernel.conftest import Cgroup, Start, wait_until
from ksm_operator.agent.execs import ExecListener
from ksm_operator.agent.news import CgroupEntered, News
from ksm_operator.kernel import Hierarchy, Unsupported

STARTS_A_PROGRAM = """
import subprocess, sys
print("ready", flush=True)
sys.stdin.readline()
subprocess.run(["true"], check=True)
print("done", flush=True)
sys.stdin.readline()
"""
BECOMES_A_PROGRAM = """
import os, sys
print("ready", flush=True)
sys.stdin.readline()
os.execvp("sleep", ["sleep", "60"])
"""


def container_in(cgroup: Cgroup) -> Cgroup:
    """A cgroup that is named as a container's in a pod."""
    name = f"kubepods/burstable/pod{uuid.uuid4()}/{secrets.token_hex(32)}"
    for part in Path(name).parts:
        cgroup = cgroup.child(part)
    return cgroup


def test_who_joins_a_container_is_news_and_its_own_children_are_not(
    cgroup: Cgroup, hierarchy: Hierarchy, start: Start
) -> None:
    """`kubectl exec` inherits nothing; a container that runs programs all day must cost nothing."""
    news: queue.SimpleQueue[News] = queue.SimpleQueue()
    busy, joined = container_in(cgroup), container_in(cgroup.child("other"))
    main = start(code=STARTS_A_PROGRAM)
    busy.add(main.pid)
    try:
        # Not before: the exec of the main program itself would be told, and it has joined as well.
        ExecListener(hierarchy, news).start()
    except Unsupported as error:
        pytest.skip(str(error))
    main.tell("go on")
    assert main.line() == "done"
    newcomer = start(code=BECOMES_A_PROGRAM)
    joined.add(newcomer.pid)

    newcomer.tell("go on")

    heard: set[News] = set()
    entered = CgroupEntered(hierarchy.name(joined.directory))

    def came() -> bool:
        # Whoever else has containers on this machine is heard of, too.
        while not news.empty():
            heard.add(news.get())
        return entered in heard

    wait_until(came, "it is noticed who joined")
    assert CgroupEntered(hierarchy.name(busy.directory)) not in heard
