"""The release's life while nodes are enrolled: upgrade, uninstall, and back again."""

from cluster import operator_release
from cluster.command import Command, wait_until
from cluster.operator_release import AGENT_SELECTOR, NAMESPACE
from cluster.pods import all_merge, assert_unharmed, none_merges
from cluster.stage import Stage
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
