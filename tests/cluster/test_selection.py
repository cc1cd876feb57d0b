"""Whose processes merge: labels come and go on running pods, and their memory follows."""

import time

from cluster.command import holds_for, wait_until
from cluster.pods import Process, all_merge, assert_unharmed, none_merges, processes
from cluster.stage import DOMAIN, Stage

MERGE_LABEL = "ksm-operator.dev/merge"
FOLLOW_SECONDS = 30
"""A pod that leaves gives its merged pages back first, which takes its time."""


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
