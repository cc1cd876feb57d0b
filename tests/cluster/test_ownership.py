"""A node has one owner: policies take turns, and what others manage is left alone."""

from cluster.command import Kubectl, condition, holds_for, wait_until
from cluster.pods import Process, all_merge, assert_unharmed, none_merges
from cluster.stage import DOMAIN, Stage
from support import kernel

HANDOVER_SECONDS = 60


def _hand_over(leaving: list[Process], coming: list[Process]) -> None:
    """Wait until one domain has left and the other is there, and never both at once."""

    def done() -> bool:
        # In this order: who comes is looked at first, so that a swap in between is no alarm.
        somebody_came = not none_merges(coming)
        if somebody_came and not none_merges(leaving):
            raise RuntimeError("two policies' processes merge on one node at the same time")
        return all_merge(coming)

    wait_until(done, HANDOVER_SECONDS, "the node changes hands", poll=0.05)
    assert none_merges(leaving)


def test_two_policies_take_turns_on_a_node(stage: Stage) -> None:
    """The kernel has one pool: two policies at once would be one domain, which nobody asked for."""
    kubectl = stage.kubectl
    red_space = stage.namespace("red", labels={DOMAIN: f"{stage.name}-red"})
    blue_space = stage.namespace("blue", labels={DOMAIN: f"{stage.name}-blue"})
    red, blue = stage.pods(red_space, 2), stage.pods(blue_space, 2)

    def policy_for(color: str) -> str:
        selector = {"matchLabels": {DOMAIN: f"{stage.name}-{color}"}}
        return stage.policy(f"-{color}", namespaceSelector=selector)

    first = policy_for("red")
    stage.wait_until_ready(first)
    second = policy_for("blue")
    lost = wait_until(
        lambda: (
            (found := stage.policy_condition(second, "Conflicted"))["status"] == "True" and found
        ),
        20,
        "the later policy says Conflicted",
    )
    assert first in lost["message"]
    assert kubectl.get("ksmpolicy", second)["status"]["nodes"]["conflicted"] == 1
    assert stage.policy_condition(first, "Conflicted")["status"] == "False"
    assert all_merge(red)
    assert none_merges(blue)

    stage.edit(second, priority=10)
    _hand_over(leaving=red, coming=blue)
    wait_until(
        lambda: stage.policy_condition(first, "Conflicted")["status"] == "True",
        20,
        "the policy that lost its node says Conflicted",
    )
    stage.wait_until_ready(second)

    kubectl("delete", "ksmpolicy", second, "--wait=false")
    _hand_over(leaving=blue, coming=red)
    stage.wait_until_ready(first)
    assert stage.policy_condition(first, "Conflicted")["status"] == "False"
    assert_unharmed(kubectl, red_space, red)
    assert_unharmed(kubectl, blue_space, blue)


def test_a_node_in_other_hands_is_left_alone(
    kubectl: Kubectl, node: str, operator_installed: None
) -> None:
    """run=1 before us means somebody else's setup, with its own ideas of who may merge."""
    with kernel.settings_put_back():
        kernel.write_setting("pages_to_scan", 99)
        kernel.write_setting("run", 1)
        with Stage(kubectl, node) as stage:
            namespace = stage.namespace()
            pods = stage.pods(namespace, 1)
            policy = stage.policy()
            wait_until(
                lambda: stage.node_ready_reason() == "ExternallyManaged",
                40,
                "the KSMNode says ExternallyManaged",
            )
            assert condition(kubectl.find("ksmnode", node), "Ready")["message"]
            holds_for(lambda: none_merges(pods), 2, "nothing is enrolled")
            assert kernel.settings() == stage.settings
            wait_until(
                lambda: kubectl.get("ksmpolicy", policy)["status"]["nodes"]["externallyManaged"],
                20,
                "the policy counts the node as externally managed",
            )
