"""A second node: an emulated machine with another kernel, cgroup version 2 and systemd's cgroups.

What the other tests prove part by part on the first node is proved here at once, on the whole way
that a policy takes: granted, enrolled, merged, told, released.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.command import REPOSITORY, Kubectl, wait_until
from cluster.guest import NAMESPACE as EYES
from cluster.guest import Guest, Seen, placed
from cluster.operator_release import AGENT_SELECTOR, NAMESPACE
from cluster.stage import Stage
from cluster.traces import CLUSTER, traces

KERNEL = "7"
SECONDS = 300
"""Whatever it is, an emulated machine beside other work is done by then."""

PAGE = 4096
HOLD_MEMORY = "held=$(seq 300000); sleep 1000000 & wait"
"""A shell that holds 2 MB, the same in every pod, and a program that it runs beside itself."""
PROCESSES_PER_POD = 2
SAVED_BYTES = 3 << 19
"""One of two pods holds what it need not, but for ends of ranges and what ksmd has not come to."""


def _cluster(verb: str) -> None:
    subprocess.run(
        ["make", "-s", f"cluster-{verb}", f"NODES=vm:{KERNEL}"], cwd=REPOSITORY, check=True
    )


@pytest.fixture(scope="module")
def guest(kubectl: Kubectl, operator_installed: None) -> Iterator[Guest]:
    """The node, up for this module; one that was up is up again at the end."""
    was_up = kubectl.find("node", f"vm-{KERNEL}") is not None
    before = _machines()
    _cluster("up")
    made = Guest(kubectl, KERNEL)
    try:
        made.open_eyes()
        made.wait_for_pods(EYES, SECONDS)
        yield made
    finally:
        made.close_eyes()
        _cluster("down")
    _assert_gone(kubectl, made.node)
    if was_up:
        _cluster("up")
    else:
        assert _machines() == before


def _assert_gone(kubectl: Kubectl, node: str) -> None:
    """A node that was tried once must not stay in the cluster."""
    assert kubectl.find("node", node) is None
    assert kubectl.items("pods", "-A", f"--field-selector=spec.nodeName={node}") == []
    assert not (Path("/var/lib") / CLUSTER / "nodes" / node).exists()


def _machines() -> dict[str, list[str]]:
    """What emulated machines are on this one."""
    found = traces()
    emulators = [program for program in found["programs"] if program.startswith("qemu")]
    return {"emulators": emulators, "addresses": found["addresses"]}


def _containers(kubectl: Kubectl, namespace: str) -> list[str]:
    return [
        status["containerID"].rpartition("/")[2]
        for manifest in kubectl.items("pods", "-n", namespace)
        for status in manifest.get("status", {}).get("containerStatuses", [])
        if status.get("containerID")
    ]


def _start_pods(stage: Stage, guest: Guest, namespace: str, *names: str) -> None:
    stage.kubectl.apply(*(placed(name, namespace, guest.kernel, HOLD_MEMORY) for name in names))
    guest.wait_for_pods(namespace, SECONDS)


def _same(processes: list[Seen]) -> set[tuple[int, int]]:
    """What tells processes from others for good."""
    return {(one.pid, one.start) for one in processes}


@pytest.mark.timeout(5 * SECONDS, func_only=True)
def test_a_policy_from_grant_to_release(guest: Guest, kubectl: Kubectl) -> None:
    """The whole promise, where cgroups have version 2 and systemd makes them."""
    with Stage(kubectl, guest.node) as stage:
        namespace = stage.namespace()
        _start_pods(stage, guest, namespace, "pod-0")
        before = guest.look()
        assert before.release.startswith(f"{KERNEL}.")
        assert not any(one.merges or one.merged_pages for one in before.processes)
        for one in before.processes:
            assert one.cgroup.startswith("/kubepods.slice/kubepods-besteffort.slice/kubepods-")
            assert one.cgroup.endswith(".scope")
        policy = stage.policy(
            nodeSelector={"matchLabels": {"kubernetes.io/hostname": guest.node}},
            # A smart scan skips pages that were alone before: those of two pods could go on taking
            # turns, and never be looked at in one scan.
            ksmd={"cpuLimit": "1", "smartScan": False},
        )
        stage.wait_until_ready(policy, timeout=SECONDS)
        agents = kubectl.items("pods", "-n", NAMESPACE, "-l", AGENT_SELECTOR)
        assert [agent["spec"]["nodeName"] for agent in agents] == [guest.node]
        _start_pods(stage, guest, namespace, "late-0")

        status = wait_until(lambda: _saving(stage), SECONDS, "the KSMNode says what is saved")
        assert status["kernel"]["release"].startswith(f"{KERNEL}.")
        assert status["pods"] == {"matched": 2, "merging": 2, "skipped": []}
        everyone = guest.look().of(_containers(kubectl, namespace))
        assert len(everyone) == 2 * PROCESSES_PER_POD, everyone
        assert all(one.merges for one in everyone), everyone
        assert sum(one.merged_pages for one in everyone) * PAGE > SAVED_BYTES, everyone

        _release(stage, guest)

        after = guest.look()
        # The same processes as before: none was killed, no container was restarted.
        assert _same(after.of(_containers(kubectl, namespace))) == _same(everyone)
        assert not any(one.merges or one.merged_pages for one in after.processes), after.processes
        assert after.settings == before.settings
        assert after.killed == before.killed


def _saving(stage: Stage) -> dict[str, Any]:
    status = stage.node_status()
    return status if status["memory"]["savedBytes"] > SAVED_BYTES else {}


def _release(stage: Stage, guest: Guest) -> None:
    """Delete the policy, and see the node say that it is released before it is let go."""
    released = stage.kubectl.start(
        *("wait", "--for=condition=Released", f"ksmnode/{guest.node}", f"--timeout={SECONDS}s")
    )
    try:
        stage.delete_policies(timeout=SECONDS)
        assert released.wait(timeout=20) == 0
    finally:
        released.kill()
        released.wait()
    stage.wait_until_free(timeout=SECONDS)
