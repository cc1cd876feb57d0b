"""The release's life while nodes are enrolled: upgrade, uninstall, and back again."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cluster import operator_release
from cluster.command import Command, wait_until
from cluster.fleet import Fleet
from cluster.operator_release import AGENT_LABEL, AGENT_SELECTOR, NAMESPACE, OF_TESTS
from cluster.pods import all_merge, assert_unharmed, none_merges
from cluster.stage import DOMAIN, Stage
from support import kernel


def _agent_names(stage: Stage) -> set[str]:
    pods = stage.kubectl.items("pods", "-n", NAMESPACE, "-l", AGENT_SELECTOR)
    return {pod["metadata"]["name"] for pod in pods}


def test_an_upgrade_keeps_everything_merged(stage: Stage, helm: Command) -> None:
    """An upgrade replaces every agent; giving memory back for that could kill the pods."""
    namespace = stage.namespace()
    pods = stage.pods(namespace, 2)
    policy = stage.policy()
    stage.wait_until_ready(policy)
    wait_until(lambda: kernel.counter("pages_sharing") > 1000, 60, "pages are shared")
    shared, old = kernel.counter("pages_sharing"), _agent_names(stage)
    try:
        operator_release.install(stage.kubectl, helm, "--set", "logLevel=debug")

        def replaced() -> bool:
            assert all_merge(pods), "a process was un-merged by the upgrade"
            return bool(_agent_names(stage)) and not _agent_names(stage) & old

        wait_until(replaced, 60, "the agent is replaced")
        wait_until(lambda: kernel.counter("run") == 1, 30, "the new agent lets ksmd run again")
        stage.wait_until_ready(policy)
        assert all_merge(pods)
        assert kernel.counter("pages_sharing") > 0.8 * shared
        assert_unharmed(stage.kubectl, namespace, pods)
    finally:
        operator_release.install(stage.kubectl, helm)


def _chart(folder: Path, name: str, **spec: Any) -> str:
    """A team's chart with a policy in it."""
    policy = {
        "apiVersion": "ksm-operator.dev/v1alpha1",
        "kind": "KSMPolicy",
        "metadata": {"name": name, "labels": {OF_TESTS: "true"}},
        "spec": spec,
    }
    (folder / "templates").mkdir(exist_ok=True)
    (folder / "Chart.yaml").write_text(f"apiVersion: v2\nname: {name}\nversion: 1.0.0\n")
    (folder / "templates" / "policy.json").write_text(json.dumps(policy))
    return str(folder)


def test_helm_waits_for_a_policy(stage: Stage, helm: Command, tmp_path: Path) -> None:
    """Helm, Flux and others judge an object by its conditions: done is done, and no sooner."""
    pods = stage.pods(stage.namespace(), 2)
    name, late = f"{stage.name}-helm", f"{stage.name}-late"
    selector = {"matchLabels": {DOMAIN: stage.name}}
    here = ("--namespace", NAMESPACE)
    try:
        made = _chart(tmp_path, name, namespaceSelector=selector)
        helm("install", name, made, *here, "--wait", "--timeout", "60s")
        assert all_merge(pods)
        # The only node is the first one's: helm must not say that this one has got it.
        made = _chart(tmp_path, late, namespaceSelector=selector)
        done = helm("install", late, made, *here, "--wait", "--timeout", "5s", check=False)
        assert done.returncode != 0, done.stdout
    finally:
        gone = ("--ignore-not-found", "--wait", "--timeout", "60s")
        helm("uninstall", late, name, *here, *gone, timeout=130)
    assert stage.kubectl.find("ksmpolicy", name) is None
    assert none_merges(pods), "helm said that the policy is gone"


def test_an_uninstall_gives_everything_back_and_keeps_the_policies(
    stage: Stage, helm: Command
) -> None:
    """Whoever uninstalls with nodes enrolled must not be left with merged pods nobody minds."""
    kubectl, namespace = stage.kubectl, stage.namespace()
    pods = stage.pods(namespace, 2)
    policy = stage.policy()
    stage.wait_until_ready(policy)
    wait_until(lambda: kernel.counter("pages_sharing") > 1000, 60, "pages are shared")
    try:
        operator_release.uninstall(helm)
        assert none_merges(pods), [one for one in pods if one.merges]
        assert kernel.settings() == stage.settings
        operator_release.assert_gone(kubectl)
        kept = kubectl.get("ksmpolicy", policy)
        assert not kept["metadata"].get("finalizers"), "it could never be deleted"
        (ready,) = kept["status"]["conditions"]
        assert (ready["status"], ready["reason"]) == ("Unknown", "Uninstalled")
        assert kubectl.items("ksmnodes") == []
        assert_unharmed(kubectl, namespace, pods)
    finally:
        operator_release.install(kubectl, helm)
    stage.wait_until_ready(policy)
    assert all_merge(pods), "the kept policy works with the next installation"


def test_an_uninstall_without_hooks_leaves_everything_to_the_next_installation(
    stage: Stage, helm: Command
) -> None:
    """Nobody scans where nobody minds, and who comes next knows whose memory merges."""
    kubectl, namespace = stage.kubectl, stage.namespace()
    pods = stage.pods(namespace, 2)
    policy = stage.policy()
    stage.wait_until_ready(policy)
    wait_until(lambda: kernel.counter("pages_sharing") > 1000, 60, "pages are shared")
    shared = kernel.counter("pages_sharing")
    try:
        operator_release.uninstall(helm, "--no-hooks")
        wait_until(lambda: not _agent_names(stage), 60, "the agent is gone")
        assert kernel.counter("run") == 0
        assert all_merge(pods)
        assert kernel.counter("pages_sharing") > 0.8 * shared
    finally:
        operator_release.install(kubectl, helm)
    wait_until(lambda: kernel.counter("run") == 1, 60, "the next agent goes on")
    stage.wait_until_ready(policy)
    assert all_merge(pods)
    stage.delete_policies()
    assert none_merges(pods), "the next installation gives back what the former one took"
    assert_unharmed(kubectl, namespace, pods)


def test_an_uninstall_finishes_what_was_damaged(stage: Stage, fleet: Fleet, helm: Command) -> None:
    """People uninstall what is broken: no controller, no Lease, a node that nobody speaks to."""
    kubectl = stage.kubectl
    operator_release.stop_controller(kubectl)
    lease = ("lease", "ksm-operator-controller", "-n", NAMESPACE)
    kubectl("delete", *lease)
    fleet.join(0)
    fleet.label(0, AGENT_LABEL, "true")
    try:
        with ThreadPoolExecutor() as pool:
            uninstalled = pool.submit(operator_release.uninstall, helm)
            wait_until(
                lambda: fleet.desired() == {0: "Released"}, 60, "the node is told to release"
            )
            fleet.answer(0, "Released")
            uninstalled.result()
        operator_release.assert_gone(kubectl)
        assert kubectl.items("ksmnodes") == []
        assert kubectl.find(*lease) is None, "the next installation would wait for it"
    finally:
        operator_release.install(kubectl, helm)
