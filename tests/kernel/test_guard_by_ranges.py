"""The guard where processes are enrolled by ranges, as on kernels without the prctl."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from kernel.conftest import Cgroup, Holders, Start, wait_until
from kernel.pods import LIMIT, MIB, SIZE, Pods, kill, no_kill
from kernel.test_guard import RESERVE, refill
from kernel.test_node_command import ksm_node
from kernel.whole_agent import record, running
from ksm_operator.kernel import (
    Advised,
    Hierarchy,
    Intent,
    KernelFeatures,
    Postponed,
    Process,
    Rooms,
    Tracer,
    carry_out,
    page_size,
    prepare,
    release,
    relieve,
)
from ksm_operator.kernel.enrol import NOTHING_TO_MARK
from ksm_operator.kernel.marks import Marks
from ksm_operator.kernel.steps import run
from ksm_operator.node.__main__ import RECORD
from ksm_operator.node.record import Record
from support import kernel

GIVEN_BACK = "ksm_agent_guard_given_back_bytes_total"


class ByRanges(Pods):
    """Merged pods, and what is on record of them."""

    marks: Mapping[Process, Marks]


@pytest.fixture
def by_ranges(features: KernelFeatures) -> KernelFeatures:
    """This kernel, as if it had no prctl."""
    return replace(features, method="Madvise")


@pytest.fixture
def pods(
    holder: Holders, cgroup: Cgroup, ksmd: None, tracer: Tracer, by_ranges: KernelFeatures
) -> ByRanges:
    """Two containers in a pod each, merged, and ksmd at rest."""
    homes = [cgroup.child(name).child("container") for name in ("one", "two")]
    members = [(below, holder(SIZE, below, "small")) for below in homes]
    marks = {}
    for _, target in members:
        intent = prepare(target.process, by_ranges)
        assert isinstance(intent, Intent)
        done = carry_out(intent, tracer)
        assert isinstance(done, Advised)
        marks[target.process] = done.marks
    least = (SIZE - 1) * MIB // page_size()
    wait_until(
        lambda: all(kernel.merged_pages(target.pid) >= least for _, target in members), "merged"
    )
    kernel.write_setting("run", 0)
    made = ByRanges(members)
    made.marks = marks
    return made


def test_without_it_a_refill_kills_the_payer(pods: ByRanges, hierarchy: Hierarchy) -> None:
    """Who pays for others is in the same danger, however they came to merge."""
    pods.limit(LIMIT)
    with kill(hierarchy, pods.payer):
        assert not refill(pods.paying)


def test_a_payer_refills(
    pods: ByRanges, hierarchy: Hierarchy, tracer: Tracer, by_ranges: KernelFeatures
) -> None:
    """What the other gave back stays apart, and a release finds nothing strange in it."""
    pods.limit(LIMIT)
    members = [pods.paying.process, pods.sharing.process]
    with no_kill(hierarchy, pods.payer, pods.sharer):
        relief = run(
            relieve(
                lambda: members,
                lambda _: True,
                tracer,
                Rooms(hierarchy, RESERVE),
                marks_of=pods.marks.get,
                keeps_flags=by_ranges.unmerge_keeps_flags is True,
            )
        )
        assert list(relief.given_back) == [pods.sharing.process]
        assert 0 < relief.given_back[pods.sharing.process] < SIZE * MIB
        with pytest.raises(Postponed, match=NOTHING_TO_MARK):
            prepare(pods.sharing.process, by_ranges, pods.marks[pods.sharing.process])
        assert refill(pods.paying) == "intact"
        assert refill(pods.sharing) == "intact"
    for process, marks in pods.marks.items():
        assert release(process, tracer, lambda: None, marks=marks).done


def test_an_agent_looks_after_them(
    pods: ByRanges, hierarchy: Hierarchy, start: Start, tmp_path: Path
) -> None:
    """It has on record what they may give back, also from an agent before it."""
    members = [(pods.payer, pods.paying), (pods.sharer, pods.sharing)]
    record(tmp_path, hierarchy, members, "Paused", marks=pods.marks)
    pods.limit(LIMIT)
    with no_kill(hierarchy, pods.payer, pods.sharer), running(start, tmp_path) as agent:
        wait_until(lambda: agent.metric(GIVEN_BACK) >= MIB, "it is given back")
        wait_until(lambda: agent.metric("ksm_agent_guard_looks_total") >= 1, "the look is over")
        assert refill(pods.paying) == "intact"
        assert refill(pods.sharing) == "intact"


# Each command takes an emulated machine many seconds.
@pytest.mark.timeout(240, func_only=True)
def test_a_person_relieves_them(pods: ByRanges, hierarchy: Hierarchy, tmp_path: Path) -> None:
    """Those that `ksm-node enrol` marked, by its record; and no strangers who mark ranges."""
    pods.limit(LIMIT)
    name = hierarchy.name(pods.payer.directory)
    relief = ("-o", "json", "relieve", "--cgroup", name)
    with no_kill(hierarchy, pods.payer, pods.sharer):
        of_strangers = json.loads(ksm_node(*relief, lock=tmp_path / "lock").stdout)
        assert not of_strangers["givenBack"]
        assert name in [level["cgroup"] for level in of_strangers["exposed"]]
        known = Record(tmp_path / RECORD)
        for process, marks in pods.marks.items():
            known.put(process, marks)
        (one,) = json.loads(ksm_node(*relief, lock=tmp_path / "lock").stdout)["givenBack"]
        assert one["pid"] == pods.sharing.pid
        assert refill(pods.paying) == "intact"
