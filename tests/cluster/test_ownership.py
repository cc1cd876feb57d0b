"""A node has one owner: policies take turns, and what others manage is left alone."""

import mmap
import os
import signal

from cluster.command import Kubectl, condition, holds_for, wait_until
from cluster.pods import Process, all_merge, assert_unharmed, none_merges, pod, processes
from cluster.stage import DOMAIN, Stage
from support import kernel

HANDOVER_SECONDS = 60
MIB = 1 << 20
SAME_MIB = 60
LIMIT_MIB = 128
TIGHT = f"""
import mmap, os, signal
size = {SAME_MIB} << 20
same = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
page = (b"every page is this one. " * 200)[:4096]
for at in range(0, size, 4096):
    same[at:at + 4096] = page
held = []
signal.signal(signal.SIGUSR1, lambda *_: held.append(os.urandom(size)))
signal.signal(signal.SIGUSR2, lambda *_: held.clear())
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
while True:
    signal.pause()
"""
"""Much of one page, and at a signal as much of its own: the two do not fit into the limit."""


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


def _tight_pod(stage: Stage, namespace: str) -> Process:
    """Start a pod whose merged memory does not fit into its limit any more, once it is told so."""
    made = pod("tight", namespace, program=TIGHT)
    limits = {"limits": {"memory": f"{LIMIT_MIB}Mi"}}
    made["spec"]["containers"][0]["resources"] = limits
    stage.kubectl.apply(made)
    (found,) = wait_until(lambda: processes(stage.kubectl, namespace), 60, "the pod runs")
    return found


def _words(stage: Stage, policy: str, kind: str) -> str:
    return str(stage.policy_condition(policy, kind).get("message", ""))


def test_a_release_that_does_not_fit_keeps_the_next_policy_out(stage: Stage) -> None:
    """Time alone grants no node; both policies say what it waits for, and it goes on by itself."""
    kubectl = stage.kubectl
    red_space = stage.namespace("red", labels={DOMAIN: f"{stage.name}-red"})
    blue_space = stage.namespace("blue", labels={DOMAIN: f"{stage.name}-blue"})
    tight, blue_pods = _tight_pod(stage, red_space), stage.pods(blue_space, 1)
    red, blue = (
        stage.policy(
            f"-{color}",
            namespaceSelector={"matchLabels": {DOMAIN: f"{stage.name}-{color}"}},
            priority=priority,
        )
        for color, priority in (("red", 1), ("blue", 0))
    )
    stage.wait_until_ready(red)
    most = SAME_MIB * MIB * 9 // 10
    wait_until(
        lambda: kernel.merged_pages(tight.pid) * mmap.PAGESIZE > most, 60, "most of it is merged"
    )
    os.kill(tight.pid, signal.SIGUSR1)
    wait_until(lambda: kernel.resident_bytes(tight.pid) > 2 * most, 30, "it has as much of its own")

    stage.edit(blue, priority=10)
    both = (red, blue)
    wait_until(
        lambda: all("Blocked" in _words(stage, one, "Stalled") for one in both),
        60,
        "both policies say what the node waits for",
    )
    assert all(stage.node in _words(stage, one, "Degraded") for one in both)
    assert stage.policy_condition(blue, "Ready")["status"] == "False"
    holds_for(lambda: none_merges(blue_pods), 5, "nobody else is enrolled meanwhile")
    assert kernel.merged_pages(tight.pid) > 0
    assert tight.alive

    os.kill(tight.pid, signal.SIGUSR2)
    _hand_over(leaving=[tight], coming=blue_pods)
    stage.wait_until_ready(blue)
    wait_until(
        lambda: not any(stage.policy_condition(one, "Stalled") for one in both),
        20,
        "neither says anything of it any more",
    )
    for namespace, them in ((red_space, [tight]), (blue_space, blue_pods)):
        assert_unharmed(kubectl, namespace, them)


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
