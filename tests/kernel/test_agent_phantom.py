"""What the agent reports of who pays, against charges that are known."""

from pathlib import Path

from kernel.conftest import Cgroup, Holders, wait_until
from kernel.pods import MIB, SIZE, merged_pods
from ksm_operator.agent.containers_survey import ContainerFigures, ContainersSurvey
from ksm_operator.agent.phantom import PhantomCharge
from ksm_operator.kernel import Estimate, Hierarchy, Tracer, survey_payers


def test_what_a_refill_leaves_behind(
    holder: Holders, cgroup: Cgroup, hierarchy: Hierarchy, ksmd: None, tracer: Tracer
) -> None:
    """It is none while the payer maps its pages, and all of them when it has dropped them."""
    pods = merged_pods(holder, tracer, cgroup.child("one"), cgroup.child("two"))
    processes = [pods.paying.process, pods.sharing.process]

    def measured() -> int:
        found: list[int] = []
        charge = PhantomCharge(hierarchy)

        def has_looked() -> bool:
            told = charge.read(processes, anything_merged=True)
            found.extend([] if told is None else [told.size])
            return bool(found)

        wait_until(has_looked, "a look")
        return found[0]

    assert measured() < MIB
    pods.paying.tell("refill")
    assert pods.paying.line() == "intact"
    assert SIZE * MIB * 3 // 4 < measured() <= (SIZE + 4) * MIB


def test_containers_are_what_they_were_before_merging(
    holder: Holders, cgroup: Cgroup, hierarchy: Hierarchy, ksmd: None, tracer: Tracer
) -> None:
    """Pods cannot be sized by usage: the payer has everything, or all twice, the sharer nothing."""
    pod = cgroup.child("kubepods").child("pod11111111-2222-3333-4444-555555555555")
    pods = merged_pods(holder, tracer, pod.child("a" * 64), pod.child("b" * 64))
    processes = [pods.paying.process, pods.sharing.process]

    def figures() -> dict[Path, ContainerFigures]:
        survey = ContainersSurvey(hierarchy)
        charge = PhantomCharge(hierarchy, survey)

        def has_looked() -> bool:
            return charge.read(processes, anything_merged=True) is not None

        wait_until(has_looked, "a look")
        return {hierarchy.path(one.placement.container_path): one for one in survey.figures}

    def sizes_are_true() -> ContainerFigures:
        found = figures()
        assert set(found) == {pods.payer.directory, pods.sharer.directory}
        payer, sharer = found[pods.payer.directory], found[pods.sharer.directory]
        for one in (payer, sharer):
            assert SIZE * MIB < one.unmerged.size < (SIZE + 8) * MIB
            assert one.unmerged.error == 0
            assert one.placement.container_id in ("a" * 64, "b" * 64)
        assert sharer.share.unpaid.size > SIZE * MIB * 3 // 4
        assert pods.sharer.usage() < SIZE * MIB // 2
        return payer

    assert sizes_are_true().share.phantom.size < MIB
    pods.paying.tell("refill")
    assert pods.paying.line() == "intact"
    assert pods.payer.usage() > 2 * (SIZE - 4) * MIB
    assert sizes_are_true().share.phantom.size > SIZE * MIB * 3 // 4


def test_what_a_container_that_ended_has_left_to_its_pod(
    holder: Holders, cgroup: Cgroup, hierarchy: Hierarchy, ksmd: None, tracer: Tracer
) -> None:
    """Nobody who lives pays for it, so that no container shows why the pod is near its limit."""
    uids = [f"{digit}1111111-2222-3333-4444-555555555555" for digit in "ab"]
    kubepods = cgroup.child("kubepods")
    below = [kubepods.child(f"pod{uid}").child("c" * 64) for uid in uids]
    pods = merged_pods(holder, tracer, *below)
    survey = ContainersSurvey(hierarchy)

    def phantoms() -> dict[str, int]:
        survey.take(survey_payers([pods.sharing.process]), [pods.sharing.process])
        return {f"pod{one.uid}": one.phantom.size for one in survey.pods}

    pods.paying.kill()
    procs = pods.payer.directory / "cgroup.procs"
    wait_until(lambda: not procs.read_text(), "the payer is empty")
    pods.payer.remove()
    ended, other = pods.payer.directory.parent.name, pods.sharer.directory.parent.name
    # The kernel tells whose charge it is now a moment after the directory has gone.
    wait_until(lambda: phantoms().get(ended, 0) > SIZE * MIB * 3 // 4, "it is the pod's")
    assert phantoms()[other] == 0


def test_nothing_merged_is_no_look(hierarchy: Hierarchy) -> None:
    """A node that merges nothing pays nothing for the figure."""
    assert PhantomCharge(hierarchy).read([], anything_merged=False) == Estimate(0)
