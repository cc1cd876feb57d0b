"""Parts that die or are away: nothing is undone by that, and work goes on afterwards."""

import os
import signal
import subprocess
import sys
import time

import pytest

from cluster.command import REPOSITORY, Kubectl, holds_for, wait_until
from cluster.operator_release import AGENT_SELECTOR, CONTROLLER, CONTROLLER_SELECTOR, NAMESPACE
from cluster.pods import Process, all_merge, assert_unharmed, none_merges, pids_of, processes
from cluster.stage import Stage
from support import kernel

OUTAGE_SECONDS = 60
SOAK_OUTAGE_SECONDS = 30 * 60
AFTERWARDS_SECONDS = 400


def _kill_controller(stage: Stage) -> None:
    stage.kubectl(
        *("delete", "pod", "-n", NAMESPACE, "-l", CONTROLLER_SELECTOR),
        *("--force", "--grace-period=0", "--wait=false"),
    )


def test_a_killed_controller_loses_nothing(stage: Stage) -> None:
    """It may die at any moment; what it had begun is finished by the next one."""
    namespace = stage.namespace()
    pods = stage.pods(namespace, 2)
    policy = stage.policy()
    _kill_controller(stage)
    stage.wait_until_ready(policy, timeout=90)
    assert all_merge(pods)

    stage.kubectl("delete", "ksmpolicy", policy, "--wait=false")
    _kill_controller(stage)
    wait_until(lambda: none_merges(pods), 90, "the deleted policy's processes are released")
    stage.kubectl("wait", "--for=delete", f"ksmpolicy/{policy}", "--timeout=90s")
    stage.wait_until_free()
    assert_unharmed(stage.kubectl, namespace, pods)


def test_a_deleted_lease_is_made_again(kubectl: Kubectl, operator_installed: None) -> None:
    """Somebody's tidying must not leave the operator without anyone who may write."""
    lease = ("lease", "ksm-operator-controller", "-n", NAMESPACE)
    kubectl("delete", *lease)
    wait_until(
        lambda: (kubectl.find(*lease) or {})["spec"]["holderIdentity"], 90, "somebody leads again"
    )
    kubectl("rollout", "status", *CONTROLLER, "--timeout=60s")


def _agent_pids(stage: Stage) -> list[int]:
    pods = stage.kubectl.items("pods", "-n", NAMESPACE, "-l", AGENT_SELECTOR)
    return [pid for pod in pods for pid in pids_of(pod)]


def _agent_restarts(stage: Stage) -> int:
    pods = stage.kubectl.items("pods", "-n", NAMESPACE, "-l", AGENT_SELECTOR)
    return sum(one["restartCount"] for pod in pods for one in pod["status"]["containerStatuses"])


def _agent_ready(stage: Stage) -> None:
    stage.kubectl(
        *("wait", "--for=condition=Ready", "pod", "-n", NAMESPACE, "-l", AGENT_SELECTOR),
        "--timeout=60s",
    )


def test_a_killed_agent_resumes(stage: Stage) -> None:
    """SIGKILL leaves no time to put anything right: /run must hold what the next one needs."""
    namespace = stage.namespace()
    pods = stage.pods(namespace, 2)
    policy = stage.policy()
    stage.wait_until_ready(policy)
    wait_until(lambda: kernel.counter("pages_sharing") > 1000, 60, "pages are shared")
    restarts = _agent_restarts(stage)

    for pid in _agent_pids(stage):
        os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: all_merge(pods) and _agent_restarts(stage) > restarts, 30, "a new agent started"
    )
    _agent_ready(stage)
    everyone = stage.pods(namespace, 1, prefix="late")
    wait_until(lambda: all_merge(everyone), 30, "the new agent enrols new pods")
    wait_until(lambda: kernel.counter("run") == 1, 20, "ksmd runs")
    stage.wait_until_ready(policy)
    assert stage.node_ready_reason() == "Merging"
    assert kernel.counter("pages_sharing") > 1000
    assert_unharmed(stage.kubectl, namespace, everyone)

    # The baseline is the one from before the first agent, not what the second one found.
    stage.delete_policies()
    assert none_merges(everyone)
    assert kernel.settings() == stage.settings
    assert_unharmed(stage.kubectl, namespace, everyone)


def _local_cluster(*arguments: str, may_fail: bool = False) -> str:
    done = subprocess.run(
        [sys.executable, "hack/local-cluster", *arguments],
        cwd=REPOSITORY,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert may_fail or done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout


def _wake_kubernetes(node: str) -> None:
    """Restart what would find the API server again only minutes after an outage.

    kube-proxy among them: without it a pod has no way to the API server at all.
    """
    names = ("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
    services = {*names, *(f"{name}-{node}" for name in names)}
    # It fails where the node was found to be silent before its kubelet could say that it is not.
    for line in _local_cluster("status", may_fail=True).splitlines():
        name, _, state = line.partition(" ")
        if name in services:
            services.remove(name)
            os.kill(int(state.rpartition("pid ")[2]), signal.SIGKILL)
    assert len(services) == len(names), f"not found: {services}"
    _local_cluster("up")


def _undisturbed(pods: list[Process]) -> bool:
    return all_merge(pods) and all(one.alive for one in pods)


def _outage(stage: Stage, seconds: float) -> None:
    """The API server is away for so long, and comes back."""
    namespace = stage.namespace()
    pods = stage.pods(namespace, 2)
    policy = stage.policy()
    stage.wait_until_ready(policy)
    wait_until(lambda: kernel.counter("run") == 1, 20, "ksmd runs")
    _local_cluster("stop", "kube-apiserver")
    try:
        holds_for(lambda: _undisturbed(pods), seconds, "nothing is undone by the outage")
        scanned = kernel.counter("pages_scanned")
        wait_until(lambda: kernel.counter("pages_scanned") > scanned, 10, "ksmd still scans")
    finally:
        _local_cluster("start", "kube-apiserver")
        _wake_kubernetes(stage.node)
    started = time.monotonic()
    stage.kubectl("label", "pod", "pod-0", "-n", namespace, "ksm-operator.dev/merge=disabled")
    first = processes(stage.kubectl, namespace, "pod-0")
    wait_until(lambda: none_merges(first), 60, "a label set after the outage is obeyed")
    print(f"{time.monotonic() - started:.1f} s after the outage: a label is followed")
    stage.pods(namespace, 1, prefix="late")
    late = processes(stage.kubectl, namespace, "late-0")
    wait_until(lambda: all_merge(late), 60, "a pod made after the outage is enrolled")
    stage.wait_until_ready(policy, timeout=90)
    stage.edit(policy, mode="Paused")
    wait_until(lambda: kernel.counter("run") == 0, 60, "a change made after the outage is obeyed")
    print(f"{time.monotonic() - started:.1f} s after the outage: an edited policy is obeyed")
    assert_unharmed(stage.kubectl, namespace, pods)


def test_an_api_server_away_for_a_minute_undoes_nothing(stage: Stage) -> None:
    """Absence is not removal: an agent that hears nothing keeps what it was told last."""
    _outage(stage, OUTAGE_SECONDS)


@pytest.mark.soak
@pytest.mark.timeout(SOAK_OUTAGE_SECONDS + AFTERWARDS_SECONDS, func_only=True)
def test_an_api_server_away_for_half_an_hour_undoes_nothing(stage: Stage) -> None:
    """Whatever in an agent has a time limit comes to it: watches, tokens, its own patience."""
    _outage(stage, SOAK_OUTAGE_SECONDS)
