"""What was merged is given back, and the node is as it was before."""

from cluster.command import Kubectl, wait_until
from cluster.fleet import Fleet
from cluster.pods import all_merge, assert_unharmed, none_merges
from cluster.stage import Stage
from support import kernel

FINALIZER = "ksm-operator.dev/release"


def test_deleting_the_policy_puts_the_node_back(
    kubectl: Kubectl, node: str, operator_installed: None
) -> None:
    """The promise that lets an administrator try this at all: deleting undoes everything."""
    with kernel.settings_put_back():
        # An administrator's own values, so that restoring the kernel's defaults would be seen.
        for name, value in (
            ("pages_to_scan", 321),
            ("sleep_millisecs", 54),
            ("max_page_sharing", 200),
            ("use_zero_pages", 1),
            ("smart_scan", 0),
        ):
            kernel.write_setting(name, value)
        with Stage(kubectl, node) as stage:
            _merge_then_delete(stage)


def _merge_then_delete(stage: Stage) -> None:
    baseline = kernel.settings()
    namespace = stage.namespace()
    pods = stage.pods(namespace, 3)
    policy = stage.policy(
        ksmd={
            "tuning": "Fixed",
            "pagesToScan": 5000,
            "sleepMilliseconds": 10,
            "cpuLimit": "800m",
            "maxPageSharing": 300,
            "useZeroPages": False,
            "smartScan": True,
        }
    )
    stage.wait_until_ready(policy)
    assert all_merge(pods)
    wait_until(lambda: kernel.counter("pages_sharing") > 1000, 60, "pages are shared")
    changed = {name for name, value in kernel.settings().items() if value != baseline[name]}
    assert {"run", "max_page_sharing", "use_zero_pages", "smart_scan"} <= changed
    assert FINALIZER in stage.kubectl.get("ksmpolicy", policy)["metadata"]["finalizers"]

    stage.delete_policies()

    assert none_merges(pods), [one for one in pods if one.merges]
    assert [one.pid for one in pods if kernel.merged_pages(one.pid)] == []
    assert kernel.settings() == baseline
    stage.wait_until_free()
    assert_unharmed(stage.kubectl, namespace, pods)
    assert kernel.settings() == baseline


def test_a_policy_that_was_forced_away_is_released_too(stage: Stage, fleet: Fleet) -> None:
    """Whoever strikes its finalizer must not leave nodes merging for a policy that is gone."""
    fleet.join(0)
    policy = stage.policy(nodeSelector=fleet.selector)
    wait_until(lambda: fleet.desired() == {0: "Merging"}, 30, "the node is the policy's")
    fleet.answer(0, "Merging")
    stage.kubectl("delete", "ksmpolicy", policy, "--wait=false")
    stage.kubectl.patch("ksmpolicy", policy, {"metadata": {"finalizers": None}})
    wait_until(lambda: stage.kubectl.find("ksmpolicy", policy) is None, 10, "the policy is gone")
    wait_until(lambda: fleet.desired() == {0: "Released"}, 30, "the node is told to release")
    fleet.answer(0, "Released")
    wait_until(lambda: fleet.desired() == {}, 30, "the node is let go")
