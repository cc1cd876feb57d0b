"""A policy comes to few nodes at once, stops where something goes wrong, and leaves some alone."""

from cluster.command import condition, holds_for, wait_until
from cluster.fleet import Fleet
from cluster.pods import all_merge, assert_unharmed, none_merges
from cluster.stage import Stage

SECONDS = 30
MERGE = "ksm-operator.dev/merge"


def _wait_for(fleet: Fleet, **desired: str) -> None:
    wanted = {int(name.removeprefix("n")): state for name, state in desired.items()}
    wait_until(lambda: fleet.desired() == wanted, SECONDS, f"the nodes are asked {wanted}")


def _says(stage: Stage, policy: str, kind: str, words: str) -> None:
    wait_until(
        lambda: words in condition(stage.kubectl.get("ksmpolicy", policy), kind)["message"],
        SECONDS,
        f"{kind} says: {words}",
    )


def test_a_rollout_from_the_first_node_to_the_last(stage: Stage, fleet: Fleet) -> None:
    """One node after the other; a degraded one holds up the rest, but none that joins later."""
    fleet.join(0, 1, 2, 3)
    policy = stage.policy(nodeSelector=fleet.selector, rollout={"maxConcurrentNodes": 1})
    _wait_for(fleet, n0="Merging")
    holds_for(lambda: set(fleet.desired()) == {0}, 2, "the others wait")
    _says(stage, policy, "Reconciling", "enrolling 1, waiting 3, done 0 of 4 nodes")

    fleet.answer(0, "Merging")
    _wait_for(fleet, n0="Merging", n1="Merging")
    fleet.answer(1, "Merging", degraded="SysfsReadOnly")
    _says(stage, policy, "Stalled", f"stopped at 2 of 4 nodes; mend these, or label them {MERGE}")
    _says(stage, policy, "Stalled", f"{fleet.name(1)}: SysfsReadOnly")
    holds_for(lambda: set(fleet.desired()) == {0, 1}, 2, "it is stopped")
    fleet.join(4)
    _wait_for(fleet, n0="Merging", n1="Merging", n4="Merging")

    fleet.label(1, MERGE, "disabled")
    _wait_for(fleet, n0="Merging", n1="Released", n4="Merging")
    fleet.answer(1, "Released")
    _wait_for(fleet, n0="Merging", n4="Merging")
    # The one that joined did not wait, but others wait for it.
    holds_for(lambda: set(fleet.desired()) == {0, 4}, 2, "one at a time")
    fleet.answer(4, "Merging")
    _wait_for(fleet, n0="Merging", n2="Merging", n4="Merging")
    fleet.answer(2, "Merging")
    _wait_for(fleet, n0="Merging", n2="Merging", n3="Merging", n4="Merging")
    fleet.answer(3, "Merging")
    stage.wait_until_ready(policy)
    nodes = stage.kubectl.get("ksmpolicy", policy)["status"]["nodes"]
    assert (nodes["matched"], nodes["ready"]) == (4, 4)

    stage.kubectl("delete", "ksmpolicy", policy, "--wait=false")
    # What nobody wants any longer is given back everywhere at once.
    _wait_for(fleet, n0="Released", n2="Released", n3="Released", n4="Released")
    for number in (0, 2, 3, 4):
        fleet.answer(number, "Released")
    stage.delete_policies()


def test_a_node_that_is_taken_out_gives_everything_back(stage: Stage) -> None:
    """An administrator's word for one node beats every policy, and harms nobody."""
    namespace = stage.namespace()
    pods = stage.pods(namespace, 2)
    policy = stage.policy()
    stage.wait_until_ready(policy)
    assert all_merge(pods)
    stage.kubectl("label", "node", stage.node, f"{MERGE}=disabled")
    try:
        wait_until(lambda: none_merges(pods), 60, "everything is given back")
        stage.wait_until_free()
        assert stage.policy_condition(policy, "Ready")["reason"] == "NoMatchingNodes"
    finally:
        stage.kubectl("label", "node", stage.node, f"{MERGE}-")
    wait_until(lambda: all_merge(pods), 60, "the node is the policy's again")
    assert_unharmed(stage.kubectl, namespace, pods)
