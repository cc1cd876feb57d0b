"""Whose processes merge: labels come and go on running pods, and their memory follows."""

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.command import holds_for, wait_until
from cluster.pods import (
    IMAGE,
    Process,
    all_merge,
    assert_unharmed,
    none_merges,
    pod,
    processes,
    wait_for_pods,
)
from cluster.stage import DOMAIN, Stage
from ksm_operator.kernel import find_ksmd

MERGE_LABEL = "ksm-operator.dev/merge"
FOLLOW_SECONDS = 30
"""A pod that leaves gives its merged pages back first, which takes its time."""
REPORT_SECONDS = 90
"""A node speaks at most once a minute."""
ENDS_WHEN_IT_MERGES = """
import ctypes, time
while ctypes.CDLL(None).prctl(68, 0, 0, 0, 0) != 1:
    time.sleep(0.05)
"""
"""It asks the kernel itself (PR_GET_MEMORY_MERGE): from outside one might come too late."""


def _merging(them: list[Process], describe: str) -> None:
    wait_until(lambda: all_merge(them), FOLLOW_SECONDS, f"{describe}: all merge")


def _released(them: list[Process], describe: str) -> None:
    wait_until(lambda: none_merges(them), FOLLOW_SECONDS, f"{describe}: none merges")


def test_the_pod_selector_follows_labels(stage: Stage) -> None:
    """Labels change on running pods; a policy must neither miss nor keep a pod for that."""
    kubectl, namespace = stage.kubectl, stage.namespace()
    stage.pods(namespace, 1, prefix="web", labels={"app": "web"})
    everyone = stage.pods(namespace, 1, prefix="db", labels={"app": "db"})
    web, db = processes(kubectl, namespace, "web-0"), processes(kubectl, namespace, "db-0")
    policy = stage.policy(podSelector={"matchLabels": {"app": "web"}})
    stage.wait_until_ready(policy)
    assert all_merge(web)
    assert none_merges(db)

    kubectl("label", "pod", "db-0", "-n", namespace, "app=web", "--overwrite")
    _merging(db, "the pod that came into the selection")
    kubectl("label", "pod", "web-0", "-n", namespace, "app=old", "--overwrite")
    _released(web, "the pod that left the selection")
    assert all_merge(db)
    stage.edit(policy, podSelector={"matchLabels": {"app": "old"}})
    _merging(web, "the pod that the edited selector selects")
    _released(db, "the pod that it selects no more")
    assert_unharmed(kubectl, namespace, everyone)


def test_init_and_ephemeral_containers_merge_too(stage: Stage) -> None:
    """A pod is more than its main containers, and whoever debugs one holds its memory again."""
    kubectl, namespace = stage.kubectl, stage.namespace()
    stage.pods(namespace, 1)
    stage.wait_until_ready(stage.policy())
    manifest = pod("whole-0", namespace)
    (main,) = manifest["spec"]["containers"]
    command = ["python3", "-c", ENDS_WHEN_IT_MERGES]
    manifest["spec"]["initContainers"] = [{**main, "name": "first", "command": command}]
    kubectl.apply(manifest)
    # Its main container starts only after the init container has merged.
    everyone = wait_for_pods(kubectl, namespace, 2)
    _merging(everyone, "the main containers")

    kubectl(
        *("debug", "-n", namespace, "whole-0", f"--image={IMAGE}", "--container=debugger"),
        *("--image-pull-policy=IfNotPresent", "--profile=restricted", "--attach=false"),
        *("--", "python3", "-c", "import signal; signal.pause()"),
    )
    debugger = wait_until(
        lambda: [one for one in processes(kubectl, namespace, "whole-0") if one not in everyone],
        FOLLOW_SECONDS,
        "the ephemeral container runs",
    )
    _merging(debugger, "the ephemeral container")
    assert all_merge(everyone)
    assert_unharmed(kubectl, namespace, everyone)


def test_consent_of_pods_and_namespaces(stage: Stage) -> None:
    """Whoever owns a pod has the last word on its memory: the label, on the pod or namespace."""
    kubectl, namespace = stage.kubectl, stage.namespace()
    everyone = stage.pods(namespace, 2)
    first, second = (processes(kubectl, namespace, f"pod-{number}") for number in range(2))
    policy = stage.policy()
    stage.wait_until_ready(policy)
    label = ("label", "-n", namespace, "--overwrite", "pod")

    kubectl(*label, "pod-0", f"{MERGE_LABEL}=disabled")
    _released(first, "a pod labelled disabled")
    assert all_merge(second)
    kubectl(*label, "pod-0", f"{MERGE_LABEL}-")
    _merging(first, "a pod whose label disabled went")

    stage.edit(policy, enrollment={"consent": "OptIn"})
    _released(everyone, "nobody has consented")
    kubectl(*label, "pod-1", f"{MERGE_LABEL}=enabled")
    _merging(second, "the pod that consented")
    assert none_merges(first)
    kubectl("label", "namespace", namespace, f"{MERGE_LABEL}=enabled")
    _merging(first, "the namespace consented")
    kubectl(*label, "pod-1", f"{MERGE_LABEL}=disabled", "--overwrite")
    _released(second, "the pod's label wins over its namespace's")
    assert all_merge(first)
    assert_unharmed(kubectl, namespace, everyone)


def test_a_system_critical_pod_is_left_alone_unless_it_asks(stage: Stage) -> None:
    """What a cluster depends on must not get slower because its namespace was selected."""
    kubectl, namespace = stage.kubectl, stage.namespace()
    stage.pods(namespace, 1)
    manifest = pod("critical-0", namespace)
    manifest["spec"]["priorityClassName"] = "system-cluster-critical"
    kubectl.apply(manifest)
    everyone = wait_for_pods(kubectl, namespace, 2)
    ordinary, critical = (processes(kubectl, namespace, name) for name in ("pod-0", "critical-0"))
    policy = stage.policy()
    stage.wait_until_ready(policy)
    assert all_merge(ordinary)
    holds_for(lambda: none_merges(critical), 2, "the critical pod is left alone")
    counts = {"reason": "SystemCritical", "count": 1}
    wait_until(
        lambda: counts in (kubectl.find("ksmnode", stage.node) or {})["status"]["pods"]["skipped"],
        REPORT_SECONDS,
        "the node says why a pod is left alone",
    )

    label = ("label", "-n", namespace, "--overwrite", "pod", "critical-0")
    kubectl(*label, f"{MERGE_LABEL}=enabled")
    _merging(critical, "the critical pod asks")
    kubectl(*label, f"{MERGE_LABEL}-")
    _released(critical, "it does not ask any more")
    assert_unharmed(kubectl, namespace, everyone)


@pytest.fixture
def ksmd() -> Iterator[int]:
    """Its pid; in the end it may run where it might before."""
    pid = find_ksmd()
    assert pid is not None
    before = os.sched_getaffinity(pid)
    yield pid
    after = os.sched_getaffinity(pid)
    os.sched_setaffinity(pid, before)
    assert after == before


def test_a_pod_with_a_cpu_of_its_own_has_it_without_ksmd(ksmd: int, stage: Stage) -> None:
    """Who pays for a whole CPU waits for nothing there: neither for ksmd nor for a merged page."""
    if os.cpu_count() == 1 or len(os.sched_getaffinity(0)) != os.cpu_count():
        pytest.skip("this machine has no CPU to give away, or others have some of them")
    kubectl, namespace = stage.kubectl, stage.namespace()
    before = os.sched_getaffinity(ksmd)
    stage.pods(namespace, 1)
    policy = stage.policy()
    stage.wait_until_ready(policy)
    manifest = pod("alone-0", namespace)
    whole = {"cpu": "1", "memory": "256Mi"}
    manifest["spec"]["containers"][0]["resources"] = {"limits": whole, "requests": whole}
    kubectl.apply(manifest)
    everyone = wait_for_pods(kubectl, namespace, 2)
    ordinary, alone = (processes(kubectl, namespace, name) for name in ("pod-0", "alone-0"))
    (own,) = {frozenset(os.sched_getaffinity(one.pid)) for one in alone}
    # An older cluster's kubelet does not: make cluster-down
    assert len(own) == 1, "what the test is about: the kubelet gave it a CPU"

    # The kubelet takes the CPU away from the agent some seconds later.
    wait_until(lambda: own.isdisjoint(os.sched_getaffinity(ksmd)), 60, "ksmd leaves the CPU")
    wait_until(lambda: none_merges(alone), 60, "the pod with the CPU is left alone")
    holds_for(lambda: none_merges(alone) and all_merge(ordinary), 5, "and stays so")

    label = ("label", "-n", namespace, "--overwrite", "pod", "alone-0")
    kubectl(*label, f"{MERGE_LABEL}=enabled")
    _merging(alone, "the pod asks, and is let in with its CPU")
    assert own.isdisjoint(os.sched_getaffinity(ksmd))
    kubectl(*label, f"{MERGE_LABEL}-")
    _released(alone, "it does not ask any more")
    holds_for(lambda: none_merges(alone) and all_merge(ordinary), 5, "and stays so")
    assert_unharmed(kubectl, namespace, everyone)
    kubectl("delete", "pod", "-n", namespace, "alone-0")
    wait_until(lambda: os.sched_getaffinity(ksmd) == before, 60, "ksmd may run there again")


def test_namespaces_come_and_go_by_their_labels(stage: Stage) -> None:
    """The selector of namespaces is the security domain, at every moment."""
    kubectl = stage.kubectl
    first, second = stage.namespace("first"), stage.namespace("second", labels={})
    inside, outside = stage.pods(first, 1), stage.pods(second, 1)
    policy = stage.policy()
    stage.wait_until_ready(policy)
    assert all_merge(inside)
    assert none_merges(outside)

    kubectl("label", "namespace", second, f"{DOMAIN}={stage.name}")
    _merging(outside, "the namespace that came")
    kubectl("label", "namespace", first, f"{DOMAIN}-")
    _released(inside, "the namespace that went")
    stage.edit(policy, namespaceSelector=None, namespaces=[first])
    _merging(inside, "the namespace named by the edited policy")
    _released(outside, "the namespace that it does not name")
    assert_unharmed(kubectl, first, inside)
    assert_unharmed(kubectl, second, outside)


def test_running_pods_are_skipped_on_request(stage: Stage) -> None:
    """`runningPods: Skip` is for people who want nothing to be attached to."""
    namespace = stage.namespace()
    old = stage.pods(namespace, 1, prefix="old")
    time.sleep(1)  # grantedAt counts whole seconds
    policy = stage.policy(enrollment={"runningPods": "Skip"})
    stage.wait_until_ready(policy)
    everyone = stage.pods(namespace, 1, prefix="new")
    new = [one for one in everyone if one not in old]
    _merging(new, "the pod that started after the policy")
    holds_for(lambda: none_merges(old), 2, "the pod that ran before is left alone")
    stage.edit(policy, enrollment={"runningPods": "Attach"})
    _merging(old, "the older pod, once the policy says Attach")


def test_no_pod_speaks_for_another(stage: Stage) -> None:
    """Whoever may write pods of his own must not enrol the pods of others, nor release them."""
    kubectl = stage.kubectl
    ours, theirs = stage.namespace("ours"), stage.namespace("theirs", labels={})
    inside, outside = stage.pods(ours, 1), stage.pods(theirs, 1)
    everyone = stage.pods(ours, 1, prefix="late", labels={MERGE_LABEL: "disabled"})
    late = [one for one in everyone if one not in inside]
    policy = stage.policy()
    stage.wait_until_ready(policy)
    assert all_merge(inside)
    assert none_merges([*outside, *late])

    uids = {
        namespace: kubectl.get("pod", "pod-0", "-n", namespace)["metadata"]["uid"]
        for namespace in (ours, theirs)
    }
    for namespace, other in ((ours, uids[theirs]), (theirs, uids[ours])):
        claim = f"kubernetes.io/config.hash={other}"
        kubectl("annotate", "pod", "pod-0", "-n", namespace, claim)
    # The agent hears of pods in the order in which they change.
    kubectl("label", "pod", "late-0", "-n", ours, f"{MERGE_LABEL}-")
    _merging(late, "the pod whose label went after that")
    holds_for(lambda: all_merge(inside) and none_merges(outside), 2, "all stay what they were")
    assert_unharmed(kubectl, ours, everyone)
    assert_unharmed(kubectl, theirs, outside)


def test_the_kubelet_reports_on_no_mirror_pod_but_its_own(stage: Stage) -> None:
    """What the agent believes a mirror pod by: anybody who may create pods can make one up."""
    kubectl, namespace = stage.kubectl, stage.namespace()
    manifest = pod("made-up", namespace)
    manifest["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "0" * 32}
    # Else it is gone before anybody can look.
    manifest["metadata"]["finalizers"] = [f"{DOMAIN}/kept"]
    manifest["spec"]["nodeName"] = stage.node
    kubectl.apply(manifest)

    def found() -> dict[str, Any]:
        return kubectl.get("pod", "made-up", "-n", namespace)

    try:
        wait_until(lambda: "deletionTimestamp" in found()["metadata"], 60, "the kubelet deletes it")
        assert "startTime" not in found()["status"]
    finally:
        nothing = '-p={"metadata":{"finalizers":null}}'
        kubectl("patch", "pod", "made-up", "-n", namespace, "--type=merge", nothing)
