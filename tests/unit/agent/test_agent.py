"""The loop: what it does about news, on a machine of plain files."""

from pathlib import Path

import pytest

from ksm_operator.agent.agent import Agent
from ksm_operator.agent.client import Access, Client
from ksm_operator.agent.host import Host
from ksm_operator.agent.identity import Identity
from ksm_operator.agent.metrics import Metrics
from ksm_operator.agent.news import CgroupsUncertain
from ksm_operator.agent.state import State
from ksm_operator.kernel import Helper, Hierarchy, KsmSysfs
from unit.kernel.kernels import NEWEST

CONTAINER = f"kubepods/pod00000000-1111-2222-3333-444444444444/{'ab' * 32}"


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    """One that has nobody to obey."""
    (tmp_path / "ksm").mkdir()
    (tmp_path / "ksm/run").write_text("0\n")
    (tmp_path / "cgroup").mkdir()
    host = Host(
        sysfs=KsmSysfs(tmp_path / "ksm"),
        hierarchy=Hierarchy(2, tmp_path / "cgroup"),
        features=NEWEST,
        tracer=Helper(),
        boot_time=0.0,
        ksmd=None,
    )
    nowhere = Access("https://127.0.0.1:9", tmp_path / "token", tmp_path / "ca")
    identity = Identity("a-node", "", tmp_path / "state.json", "test")
    return Agent(identity, Client(nowhere), host, State("boot"), Metrics("test"))


def test_where_events_were_lost_all_containers_are_looked_for_at_once(
    agent: Agent, tmp_path: Path
) -> None:
    """Nobody tells of one that was made meanwhile, before the look of once a minute."""
    agent._act()
    (tmp_path / "cgroup" / CONTAINER).mkdir(parents=True)
    agent._act()
    assert not agent._view.containers
    agent.news.put(CgroupsUncertain())
    agent._wait()
    agent._act()
    assert agent._view.containers.keys() == {f"/{CONTAINER}"}
