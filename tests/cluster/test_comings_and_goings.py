"""Nodes and KSMNodes that are deleted, and come again: somebody always looks after them."""

from cluster.command import wait_until
from cluster.fleet import Fleet
from cluster.operator_release import AGENT_LABEL
from cluster.stage import Stage

SECONDS = 30


def _ksm_node(stage: Stage, name: str) -> dict[str, str]:
    """What tells one KSMNode from another: its own uid, its node's and its owner's."""
    found = stage.kubectl.find("ksmnode", name)
    if found is None:
        return {}
    (node,) = found["metadata"]["ownerReferences"]
    owner = found["spec"].get("owner", {})
    return {"uid": found["metadata"]["uid"], "node": node["uid"], "owner": owner.get("uid", "")}


def _uid(stage: Stage, kind: str, name: str) -> str:
    return str(stage.kubectl.get(kind, name)["metadata"]["uid"])


def _wait_for_another(stage: Stage, name: str, former: dict[str, str]) -> dict[str, str]:
    def another() -> dict[str, str]:
        found = _ksm_node(stage, name)
        return {} if found.get("uid") == former["uid"] else found

    return wait_until(another, SECONDS, f"there is another KSMNode {name}")


def _policy_with_a_node(stage: Stage, fleet: Fleet) -> str:
    """Make a policy that is Ready on one node, number 0."""
    fleet.join(0)
    policy = stage.policy(nodeSelector=fleet.selector)
    wait_until(lambda: fleet.desired() == {0: "Merging"}, SECONDS, "it is asked to merge")
    fleet.answer(0, "Merging")
    stage.wait_until_ready(policy)
    return policy


def test_a_ksm_node_that_was_deleted_comes_again(stage: Stage, fleet: Fleet) -> None:
    """Somebody deletes it by hand; the node's processes are enrolled, and must have an owner."""
    policy = _policy_with_a_node(stage, fleet)
    name = fleet.name(0)
    before = _ksm_node(stage, name)
    stage.kubectl("delete", "ksmnode", name)
    after = _wait_for_another(stage, name, before)
    assert after["owner"] == before["owner"] == _uid(stage, "ksmpolicy", policy)
    fleet.answer(0, "Merging")
    stage.wait_until_ready(policy)

    # A policy of the same name is another owner: what the first one merged is given back before.
    stage.kubectl("delete", "ksmpolicy", policy, "--wait=false")
    wait_until(lambda: fleet.desired() == {0: "Released"}, SECONDS, "it is asked to release")
    stage.kubectl("patch", "ksmpolicy", policy, "--type=merge", '-p={"metadata":{"finalizers":[]}}')
    stage.kubectl("wait", "--for=delete", f"ksmpolicy/{policy}", "--timeout=30s")
    stage.policy(nodeSelector=fleet.selector)
    assert _uid(stage, "ksmpolicy", policy) != before["owner"]
    wait_until(
        lambda: stage.policy_condition(policy, "Ready").get("reason") == "NodesNotReady",
        SECONDS,
        "the new policy waits",
    )
    assert fleet.desired() == {0: "Released"}
    assert _ksm_node(stage, name)["owner"] == before["owner"]
    fleet.answer(0, "Released")
    wait_until(lambda: fleet.desired() == {0: "Merging"}, SECONDS, "it is the new policy's")
    assert _ksm_node(stage, name)["owner"] == _uid(stage, "ksmpolicy", policy)
    fleet.answer(0, "Merging")
    stage.kubectl("delete", "ksmpolicy", policy, "--wait=false")
    wait_until(lambda: fleet.desired() == {0: "Released"}, SECONDS, "it is asked to release")
    fleet.answer(0, "Released")
    stage.delete_policies()


def test_a_node_that_comes_again_is_another(stage: Stage, fleet: Fleet) -> None:
    """Machines are replaced under the same name: nothing that was said of the old one holds."""
    policy = _policy_with_a_node(stage, fleet)
    name = fleet.name(0)
    before = _ksm_node(stage, name)

    stage.kubectl("delete", "node", name)
    wait_until(lambda: not _ksm_node(stage, name), SECONDS, "its KSMNode goes with it")
    wait_until(
        lambda: stage.policy_condition(policy, "Ready").get("reason") == "NoMatchingNodes",
        SECONDS,
        "the policy has no node left",
    )
    fleet.join(0)
    after = _wait_for_another(stage, name, before)
    assert after["node"] == _uid(stage, "node", name) != before["node"]
    label = AGENT_LABEL.replace(".", r"\.")
    path = f"-o=jsonpath={{.metadata.labels.{label}}}"
    wait_until(
        lambda: stage.kubectl("get", "node", name, path).stdout == "true",
        SECONDS,
        "it is to have an agent",
    )

    # The policy goes while the machine is away: nobody waits for it, and its KSMNode stays.
    fleet.answer(0, "Merging")
    fleet.lose(0)
    stage.delete_policies(timeout=30)
    assert fleet.desired() == {0: "Released"}
    fleet.answer(0, "Released")
    wait_until(lambda: fleet.desired() == {}, SECONDS, "it gave back what it had, and is free")
