"""What the policy asks of ksmd is what /sys says, and it costs no more CPU than it may."""

import time

from cluster.command import holds_for, wait_until
from cluster.pods import all_merge, none_merges
from cluster.stage import Stage
from support import kernel


def used(seconds: float) -> float:
    """CPUs that ksmd has for so long."""
    cpu, started = kernel.ksmd_cpu_seconds(), time.monotonic()
    time.sleep(seconds)
    return (kernel.ksmd_cpu_seconds() - cpu) / (time.monotonic() - started)


def _reads(name: str, value: int) -> None:
    wait_until(lambda: kernel.counter(name) == value, 20, f"{name} reads {value}")


def test_paused_keeps_what_is_merged_and_enrols_nothing(stage: Stage) -> None:
    """Paused is the brake: no CPU, no new processes, and no memory needed to give pages back."""
    namespace = stage.namespace()
    before = stage.pods(namespace, 2)
    policy = stage.policy()
    stage.wait_until_ready(policy)
    wait_until(lambda: kernel.counter("pages_sharing") > 1000, 60, "pages are shared")

    stage.edit(policy, mode="Paused")
    _reads("run", 0)
    wait_until(lambda: stage.node_ready_reason() == "Paused", 20, "the KSMNode says Paused")
    shared = kernel.counter("pages_sharing")
    everyone = stage.pods(namespace, 1, prefix="late")
    late = [one for one in everyone if one not in before]
    holds_for(lambda: none_merges(late), 3, "a pod that starts while paused is not enrolled")
    assert all_merge(before)
    assert kernel.counter("pages_sharing") > 0.8 * shared
    scanned = kernel.counter("pages_scanned")
    holds_for(lambda: kernel.counter("pages_scanned") == scanned, 1, "ksmd rests")

    stage.edit(policy, mode="Enforce")
    _reads("run", 1)
    wait_until(lambda: all_merge(late), 20, "the late pod merges once the policy is enforced")
    stage.wait_until_ready(policy)


def test_fixed_numbers_and_optional_values_are_written(stage: Stage) -> None:
    """Whoever writes numbers knows the machine: they are used as written, and read back."""
    namespace = stage.namespace()
    stage.pods(namespace, 2)
    ksmd = {
        "tuning": "Fixed",
        "pagesToScan": 777,
        "sleepMilliseconds": 33,
        "cpuLimit": "2",
        "maxPageSharing": 128,
        "mergeAcrossNUMANodes": False,
        "useZeroPages": True,
        "smartScan": False,
    }
    policy = stage.policy(ksmd=ksmd)
    stage.wait_until_ready(policy)
    for name, value in (
        ("run", 1),
        ("pages_to_scan", 777),
        ("sleep_millisecs", 33),
        ("max_page_sharing", 128),
        ("merge_across_nodes", 0),
        ("use_zero_pages", 1),
        ("smart_scan", 0),
    ):
        assert kernel.counter(name) == value, name

    stage.edit(policy, ksmd={"pagesToScan": 888, "smartScan": True})
    _reads("pages_to_scan", 888)
    _reads("smart_scan", 1)
    wait_until(lambda: kernel.counter("pages_shared") > 0, 60, "pages are shared")
    stage.edit(policy, ksmd={"maxPageSharing": 64})
    # The kernel refuses it while pages are shared: said, not forgotten and not forced.
    wait_until(
        lambda: "PendingRelease" in str(stage.node_status().get("conditions")),
        30,
        "the KSMNode says that maxPageSharing waits for a release",
    )
    assert kernel.counter("max_page_sharing") == 128


def test_the_cpu_limit_holds(stage: Stage) -> None:
    """A greedy setting must not take more than the policy's share of a CPU from the pods."""
    namespace = stage.namespace()
    stage.pods(namespace, 3)
    limit = 0.3
    greedy = {"tuning": "Fixed", "pagesToScan": 100_000, "sleepMilliseconds": 1}
    policy = stage.policy(ksmd={**greedy, "cpuLimit": f"{limit * 1000:.0f}m"})
    stage.wait_until_ready(policy)

    wait_until(lambda: used(1.0) <= limit * 1.5, 15, "ksmd comes down to its limit")
    share = used(10)
    print(f"ksmd used {share * 1000:.0f}m of {limit * 1000:.0f}m")
    assert share <= limit * 1.3
    # It is there to be used while there is work; a busy machine gives ksmd a turn now and then.
    wait_until(lambda: used(2.0) >= limit * 0.3, 60, "ksmd uses what it may")


def test_ksmd_rests_when_all_is_merged(stage: Stage) -> None:
    """The limit is there to be used while there is something to merge, not for ever."""
    namespace = stage.namespace()
    stage.pods(namespace, 3)
    policy = stage.policy(ksmd={"cpuLimit": "1"})
    stage.wait_until_ready(policy)
    wait_until(lambda: kernel.counter("pages_sharing") > 1000, 60, "pages are shared")
    wait_until(lambda: used(5.0) < 0.05, 60, "ksmd rests")
    assert kernel.counter("run") == 1
    shared = kernel.counter("pages_sharing")
    stage.pods(namespace, 2, prefix="late")
    wait_until(lambda: kernel.counter("pages_sharing") > 1.3 * shared, 60, "the late ones merge")


def test_the_kernels_advisor_is_put_to_work_and_back(stage: Stage) -> None:
    """Whoever trusts the kernel's judgement more has it, within the same limit."""
    namespace = stage.namespace()
    stage.pods(namespace, 2)
    policy = stage.policy(ksmd={"tuning": "Advisor", "cpuLimit": "400m"})
    stage.wait_until_ready(policy)
    mode = kernel.KSM / "advisor_mode"
    wait_until(lambda: "[scan-time]" in mode.read_text(), 20, "the advisor is on")
    _reads("advisor_max_cpu", 40)
    holds_for(
        lambda: "ExternallyModified" not in str(stage.node_status().get("conditions")),
        3,
        "what the advisor writes is nobody else's",
    )
    stage.edit(policy, ksmd={"tuning": "Auto"})
    wait_until(lambda: "[none]" in mode.read_text(), 20, "the advisor is off")


def test_scanning_waits_for_memory_to_be_needed(stage: Stage) -> None:
    """With much memory free, scanning only costs: pods are enrolled, ksmd rests."""
    namespace = stage.namespace()
    pods = stage.pods(namespace, 1)
    policy = stage.policy(ksmd={"startBelowAvailablePercent": 1})
    wait_until(lambda: all_merge(pods), 40, "the pods are enrolled")
    holds_for(lambda: kernel.counter("run") == 0, 2, "ksmd rests while memory is available")
    stage.edit(policy, ksmd={"startBelowAvailablePercent": 100})
    _reads("run", 1)


def test_an_administrators_stop_is_respected(stage: Stage) -> None:
    """Whoever writes 0 to run by hand has a reason; it is said, not undone."""
    namespace = stage.namespace()
    pods = stage.pods(namespace, 1)
    policy = stage.policy(ksmd={"cpuLimit": "1"})
    stage.wait_until_ready(policy)
    _reads("run", 1)
    kernel.write_setting("run", 0)
    wait_until(
        lambda: "ExternallyModified" in str(stage.node_status().get("conditions")),
        30,
        "the KSMNode says that somebody else changed a value",
    )
    holds_for(lambda: kernel.counter("run") == 0, 3, "run stays 0")
    assert all_merge(pods)
