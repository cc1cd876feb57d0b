"""What was merged is given back, and the node is as it was before."""

from cluster.command import Kubectl, wait_until
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
