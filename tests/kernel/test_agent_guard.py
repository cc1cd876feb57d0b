"""An agent at work: what it merges costs no pod its life, and is merged all the same."""

from collections.abc import Collection, Generator, Iterable, Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from kernel.agents import Agents
from kernel.conftest import Cgroup, Holders, Start, Target, intact, wait_until
from kernel.pods import LIMIT, MIB, SIZE, kill, merged_pods, no_kill
from kernel.test_guard import limit_pod, refill, restarted
from kernel.test_release import merged
from kernel.whole_agent import record, running
from ksm_operator.agent.departure import Departure
from ksm_operator.agent.releasing import Left
from ksm_operator.agent.state import Container
from ksm_operator.agent.vigilance import Vigilance
from ksm_operator.kernel import (
    Hierarchy,
    KernelFeatures,
    Process,
    Rooms,
    Tracer,
    enrol,
    page_size,
    relieve,
)
from ksm_operator.kernel.steps import run
from support import kernel

SCANS = 3
GIVEN_BACK = "ksm_agent_guard_given_back_bytes_total"
LOOKS = "ksm_agent_guard_looks_total"


class Twins:
    """Two containers with the same memory, on record as enrolled, and limited."""

    def __init__(self, members: list[tuple[Cgroup, Target]]) -> None:
        self.members = members

    def limit(self, mebibytes: int) -> None:
        """Limit each of them."""
        for cgroup, _ in self.members:
            cgroup.limit(mebibytes * MIB)

    def payer_first(self) -> list[Target]:
        """Who is charged for more comes first."""
        return [target for _, target in sorted(self.members, key=lambda one: -one[0].usage())]

    def lack(self, hierarchy: Hierarchy, tracer: Tracer) -> bool:
        """Whether one of them may need more than it has room for, by a look that breaks nothing."""
        processes = [target.process for _, target in self.members]
        relief = run(relieve(lambda: processes, lambda _: False, tracer, Rooms(hierarchy, 0.01)))
        names = {hierarchy.name(cgroup.directory) for cgroup, _ in self.members}
        return any(one.level in names for one in relief.exposed)


@pytest.fixture
def twins(
    *,
    ksm_settings: dict[str, bytes],
    holder: Holders,
    cgroup: Cgroup,
    hierarchy: Hierarchy,
    tracer: Tracer,
    tmp_path: Path,
) -> Twins:
    """Nothing of them is merged yet: that is left to the agent and its governor."""
    below = [cgroup.child(name).child("container") for name in ("one", "two")]
    made = Twins([(one, holder(SIZE, one, "small")) for one in below])
    for _, target in made.members:
        enrol(target.process, tracer)
    record(tmp_path, hierarchy, made.members, "Merging")
    return made


def wait_for_ksmd() -> None:
    """Until a few scans have found nothing to merge."""
    before = (kernel.counter("full_scans"), kernel.counter("pages_sharing"))

    def is_done() -> bool:
        nonlocal before
        now = (kernel.counter("full_scans"), kernel.counter("pages_sharing"))
        if now[1] != before[1] or not now[1]:
            before = now
        return now[0] >= before[0] + SCANS and now[1] > 0

    wait_until(is_done, "all is merged that may merge")


def test_a_payer_refills_again_and_again(
    twins: Twins, hierarchy: Hierarchy, tracer: Tracer, start: Start, tmp_path: Path
) -> None:
    """Garbage collectors do so for ever, and ksmd merges what they wrote in between."""
    twins.limit(LIMIT)
    cgroups = [cgroup for cgroup, _ in twins.members]
    with no_kill(hierarchy, *cgroups), running(start, tmp_path) as agent:
        for _ in range(2):
            wait_for_ksmd()
            wait_until(lambda: not twins.lack(hierarchy, tracer), "room for all that was merged")
            for target in twins.payer_first():
                assert refill(target) == "intact"
        assert agent.metric(GIVEN_BACK) >= MIB
        assert agent.metric('ksm_agent_errors_total{operation="loop"}') == 0


def test_without_the_guard_a_payer_is_killed(
    twins: Twins, hierarchy: Hierarchy, start: Start, tmp_path: Path
) -> None:
    """What the same agent does to the same containers when it never looks."""
    twins.limit(LIMIT)
    cgroups = [cgroup for cgroup, _ in twins.members]
    with running(start, tmp_path, "asleep"):
        wait_until(lambda: all(merged(one) >= (SIZE - 1) * MIB for _, one in twins.members), "all")
        with kill(hierarchy, *cgroups):
            assert not refill(twins.payer_first()[0])


def test_where_there_is_room_all_is_merged(twins: Twins, start: Start, tmp_path: Path) -> None:
    """A guard that kept pods alive by merging little would be no guard."""
    twins.limit(2 * LIMIT)
    with running(start, tmp_path) as agent:
        wait_until(lambda: all(merged(one) >= (SIZE - 1) * MIB for _, one in twins.members), "all")
        wait_until(lambda: agent.metric(LOOKS) > 0, "a look")
        assert agent.metric(GIVEN_BACK) == 0
        assert kernel.counter("pages_sharing") * page_size() >= 0.9 * SIZE * MIB
        assert all(intact(target) for _, target in twins.members)


def test_a_limit_that_is_lowered(
    twins: Twins, hierarchy: Hierarchy, tracer: Tracer, start: Start, tmp_path: Path
) -> None:
    """A pod that is resized in place needs the guard at once, and nothing that grows shows it."""
    twins.limit(2 * LIMIT)
    cgroups = [cgroup for cgroup, _ in twins.members]
    with no_kill(hierarchy, *cgroups), running(start, tmp_path, "restless") as agent:
        wait_until(lambda: all(merged(one) >= (SIZE - 1) * MIB for _, one in twins.members), "all")
        wait_until(lambda: agent.metric(LOOKS) > 0, "a look")
        twins.limit(LIMIT)
        wait_until(lambda: not twins.lack(hierarchy, tracer), "room for all that was merged")
        for target in twins.payer_first():
            assert refill(target) == "intact"


@pytest.mark.usefixtures("ksmd")
def test_while_it_is_paused_a_payers_container_restarts(
    *,
    holder: Holders,
    cgroup: Cgroup,
    hierarchy: Hierarchy,
    tracer: Tracer,
    start: Start,
    tmp_path: Path,
) -> None:
    """What is merged stays merged while a policy is paused, and so does what it may cost."""
    pods = merged_pods(holder, tracer, *(cgroup.child(one).child("container") for one in "ab"))
    members = [(pods.payer, pods.paying), (pods.sharer, pods.sharing)]
    record(tmp_path, hierarchy, members, "Paused")
    limit_pod(pods, LIMIT)
    with no_kill(hierarchy, cgroup, pods.sharer):
        with running(start, tmp_path) as agent:
            wait_until(lambda: agent.metric(GIVEN_BACK) >= (SIZE - 8) * MIB, "it is given back")
            again = restarted(holder, pods)
            assert again.line() == "ready"
        assert intact(again)
        assert intact(pods.sharing)


class Endless:
    """A release that goes on for as long as a test, as one of tens of GiB does for minutes."""

    left: ClassVar[dict[Process, Left]] = {}

    def release(
        self,
        paths: Iterable[str],
        reserve_percent: int,
        only: Mapping[str, Collection[Process]] | None,
    ) -> Generator[float, None, None]:
        """Take step after step."""
        assert paths
        assert not only
        while True:
            yield reserve_percent / 100


@pytest.mark.usefixtures("ksmd")
@pytest.mark.parametrize("leaver", ["another", "sharer"])
def test_while_a_release_goes_on(
    *,
    leaver: str,
    holder: Holders,
    cgroup: Cgroup,
    hierarchy: Hierarchy,
    features: KernelFeatures,
    tracer: Tracer,
) -> None:
    """Who stays is guarded between its steps, and who leaves is touched by the release alone."""
    pods = merged_pods(holder, tracer, *(cgroup.child(one).child("container") for one in "ab"))
    other = cgroup.child("other")
    members = {
        "payer": (pods.payer, pods.paying),
        "sharer": (pods.sharer, pods.sharing),
        "another": (other, holder.others()(1, other)),
    }
    agents = Agents(hierarchy, features)
    hands = agents.hands(tracer)
    for one, target in members.values():
        path = agents.path(one)
        hands.state.containers[path] = Container("a-pod", path, {target.process})
    hands.departure = Departure(hands.state, Endless(), lambda: False)
    assert not hands.departure.step([agents.path(members[leaver][0])], 10)
    assert hands.departure.is_going_on
    pods.limit(LIMIT)
    wait_until(lambda: hands.watch_over() == Vigilance().glance_seconds, "a look is over")
    if leaver == "sharer":
        assert merged(pods.sharing) >= (SIZE - 1) * MIB
        assert not hands.guard.exposed, "the release may be about to help"
    else:
        with no_kill(hierarchy, pods.payer, pods.sharer):
            assert refill(pods.paying) == "intact"
