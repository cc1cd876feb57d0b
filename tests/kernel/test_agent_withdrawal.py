"""Containers that do not pay for their merging, with the real ksmd's own figures."""

import time
from collections.abc import Iterator

import pytest

from kernel.agents import Agents, dismiss, release_all
from kernel.conftest import Cgroup, Holders, wait_until
from kernel.test_release import merged
from ksm_operator.agent.obey import Obedience
from ksm_operator.agent.profit import Profit
from ksm_operator.agent.wire import Ksmd
from ksm_operator.kernel import Hierarchy, KernelFeatures, Tracer, page_size, read_vmstat
from support import kernel

MIB = 1 << 20
SIZE = 24
FAIR_SECONDS = 2.0
PAUSE_SECONDS = 3.0
QUICK = Ksmd(tuning="Fixed", cpu_limit_milli_cpu=1000, pages_to_scan=20000, sleep_milliseconds=5)


@pytest.fixture
def containers(cgroup: Cgroup) -> tuple[Cgroup, Cgroup]:
    """Two of a pod."""
    return cgroup.child("twins"), cgroup.child("loner")


@pytest.fixture
def agent(
    hierarchy: Hierarchy,
    prctl: KernelFeatures,
    tracer: Tracer,
    containers: tuple[Cgroup, Cgroup],
    ksmd: None,
) -> Iterator[tuple[Obedience, list[str]]]:
    """An agent's hands, and the containers' paths."""
    agents = Agents(hierarchy, prctl)
    hands, paths = agents.hands(tracer), [agents.path(one) for one in containers]
    hands._governor.step(QUICK, 0, ())
    yield hands, paths
    for path in paths:
        release_all(hands.enrolment, path)


def test_who_shares_nothing_is_withdrawn_and_tried_again(
    agent: tuple[Obedience, list[str]], containers: tuple[Cgroup, Cgroup], holder: Holders
) -> None:
    """Its records are the kernel's memory; its neighbour goes on merging."""
    hands, paths = agent
    twins = [holder(SIZE, containers[0], "small") for _ in range(2)]
    loner = holder.others()(SIZE, containers[1], "small")
    withdrawal = hands.enrolment.withdrawal

    def attended() -> None:
        dismiss(hands)
        withdrawal._next = 0.0  # as if five minutes had passed
        hands.look_again()
        hands.attention.enrol(paths, lambda _: "pod")
        time.sleep(0.1)

    def all_merge() -> bool:
        attended()
        return all(merged(one) > 0.9 * SIZE * MIB for one in twins)

    wait_until(all_merge, "the twins are merged")
    assert kernel.merge_any(loner.pid)
    kernel.write_setting("run", 0)  # as the governor has it when there is nothing to find
    # Before, a machine that is slow to merge the twins would have them withdrawn as well.
    withdrawal.profit = Profit(FAIR_SECONDS, 0, PAUSE_SECONDS)

    def let_go() -> bool:
        attended()
        return not kernel.merge_any(loner.pid)

    wait_until(let_go, "the one that shares nothing is let go")
    assert hands.enrolment.skipped_processes({paths[1]: None}) == {"NoProfit": 1}
    assert all(kernel.merge_any(one.pid) for one in twins)
    assert not withdrawal.keeps_out(paths[0])

    def back() -> bool:
        attended()
        return bool(kernel.merge_any(loner.pid))

    wait_until(back, "it is tried again")


@pytest.mark.usefixtures("ksmd")
def test_what_is_given_back_was_not_written_to(
    hierarchy: Hierarchy,
    prctl: KernelFeatures,
    tracer: Tracer,
    cgroup: Cgroup,
    holder: Holders,
) -> None:
    """The kernel counts both alike; those who stay would be charged for copies nobody made."""
    agents = Agents(hierarchy, prctl)
    hands, path = agents.hands(tracer), agents.path(cgroup)
    twins = [holder(SIZE, cgroup, "small") for _ in range(2)]

    def all_merge() -> bool:
        hands.attention.enrol([path], lambda _: "pod")
        return all(merged(one) > 0.9 * SIZE * MIB for one in twins)

    wait_until(all_merge, "the twins are merged")
    kernel.write_setting("run", 0)
    pages = SIZE * MIB // page_size()
    counted, breaks = read_vmstat()["cow_ksm"], agents.host.breaks(page_size())
    release_all(hands.enrolment, path)
    assert read_vmstat()["cow_ksm"] - counted > pages
    assert agents.host.breaks(page_size()) - breaks < pages // 4
