"""More nodes: emulated machines with other kernels, cgroup version 2 and systemd's cgroups.

What the other tests prove part by part on the first node is proved here at once, on the whole way
that a policy takes: granted, enrolled, merged, told, released; and with a container that comes
late, an agent that is killed, a process that kubectl exec starts, a pod that leaves and comes back,
one that has no room, pods that write anew what they share, and one outside of the domain; and with
a node that is drained.
"""

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cluster.command import REPOSITORY, Kubectl, condition, wait_until
from cluster.guest import Guest, Seen, onto, placed
from cluster.operator_release import AGENT_LABEL, AGENT_SELECTOR, NAMESPACE
from cluster.pods import INTRUDE, pod
from cluster.refilling import Refilling, refilling
from cluster.stage import Stage
from cluster.traces import CLUSTER, traces
from ksm_operator.agent.agent import RESYNC_SECONDS

KERNELS = ("6.12", "7")
SECONDS = 300
"""Whatever it is, an emulated machine beside other work is done by then."""

LOOK_SECONDS = 4
"""Between two looks at it: each takes a second of its processor."""

EXECS = 4
LOOKS = 3
"""Two execs of which a resync sees either are as far apart as two resyncs, but for how late the
first one was seen."""

PAGE = 4096
MEBIBYTE = 1 << 20
HOLD_MEMORY = """
held=$(seq 300000); held=$held$held; held=$held$held; held=$held$held
sleep 1000000 & wait
"""
"""A shell that holds 16 MB, the same in every pod, and a program that it runs beside itself."""
PROCESSES_PER_POD = 2
SAVED_BYTES = 12 * MEBIBYTE
"""One of two pods holds what it need not, but for ends of ranges and what ksmd has not come to."""

LIMIT = "24Mi"
FILL_MEMORY = """
cd /sys/fs/cgroup
chunk=$(seq 40000) number=0
read -r most <memory.max
while read -r now <memory.current && [ $((most - now)) -gt 2500000 ]; do
  eval "held$number=\\$chunk" number=$((number + 1))
done
sleep 1000000 & wait
"""
"""A shell that fills its container up to 2.5 MB below the limit."""

MERGE_LABEL = "ksm-operator.dev/merge"

Step = Callable[[Stage, Guest, str], None]
"""Something that happens on a node with a policy, and to pods of a namespace."""


def _cluster(verb: str, kernels: Sequence[str]) -> None:
    nodes = ",".join(f"vm:{kernel}" for kernel in kernels)
    subprocess.run(["make", "-s", f"cluster-{verb}", f"NODES={nodes}"], cwd=REPOSITORY, check=True)


@contextmanager
def _nodes(kubectl: Kubectl, *kernels: str) -> Iterator[list[Guest]]:
    """Nodes, up for this test; if they were up they are up again at the end."""
    made = [Guest(kubectl, kernel) for kernel in kernels]
    were_up = all(kubectl.find("node", one.node) is not None for one in made)
    before = _machines()
    _cluster("up", kernels)
    try:
        for one in made:
            one.open_eyes()
        for one in made:
            one.wait_for_pods(one.eyes, SECONDS)
        yield made
    finally:
        for one in made:
            one.close_eyes()
        _cluster("down", kernels)
    for one in made:
        _assert_gone(kubectl, one.node)
    if were_up:
        _cluster("up", kernels)
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


def _containers(kubectl: Kubectl, namespace: str, *names: str) -> list[str]:
    return [
        status["containerID"].rpartition("/")[2]
        for manifest in kubectl.items("pods", "-n", namespace)
        if manifest["metadata"]["name"] in names
        for status in manifest.get("status", {}).get("containerStatuses", [])
        if status.get("containerID")
    ]


def _start_pods(stage: Stage, guest: Guest, namespace: str, *names: str) -> None:
    stage.kubectl.apply(*(placed(name, namespace, guest.kernel, HOLD_MEMORY) for name in names))
    guest.wait_for_pods(namespace, SECONDS)


def _same(processes: list[Seen]) -> set[tuple[int, int]]:
    """What tells processes from others for good."""
    return {(one.pid, one.start) for one in processes}


# Emulated machines beside others are so slow that their kubelets end what does not answer in time.
@pytest.mark.alone
@pytest.mark.usefixtures("operator_installed")
@pytest.mark.timeout(5 * SECONDS, func_only=True)
def test_a_policy_from_grant_to_release(kubectl: Kubectl) -> None:
    """The whole promise, where cgroups have version 2 and systemd makes them."""
    with _nodes(kubectl, KERNELS[-1]) as (guest,):
        _go_all_the_way(guest, kubectl)


@pytest.mark.soak
@pytest.mark.alone
@pytest.mark.usefixtures("operator_installed")
@pytest.mark.timeout(10 * SECONDS, func_only=True)
def test_all_that_happens_on_a_node(kubectl: Kubectl) -> None:
    """What is proved part by part on the first node, on each kernel that is another one.

    On all nodes at once, each with a policy of its own: most of the time one waits for them.
    """
    steps = (_kill_agent, _exec, _leave_and_come_back, _refill, _intrude)
    with _nodes(kubectl, *KERNELS) as guests, ThreadPoolExecutor(len(guests)) as pool:
        for done in [pool.submit(_go_all_the_way, one, kubectl, steps) for one in guests]:
            done.result()
        for done in [pool.submit(_drain, one, kubectl) for one in guests]:
            done.result()


class NodeStage(Stage):
    """One of several stages at the same time, each with a node of its own."""

    def what_remains(self) -> list[str]:
        """What the operator still has on this node."""
        node = self.kubectl.find("node", self.node) or {}
        labelled = AGENT_LABEL in node.get("metadata", {}).get("labels", {})
        return [
            *(["its KSMNode"] if self.kubectl.find("ksmnode", self.node) else []),
            *(["its label"] if labelled else []),
            *(agent["metadata"]["name"] for agent in _agents(self)),
        ]


def _agents(stage: Stage) -> list[dict[str, Any]]:
    where = f"--field-selector=spec.nodeName={stage.node}"
    return stage.kubectl.items("pods", "-n", NAMESPACE, "-l", AGENT_SELECTOR, where)


def _go_all_the_way(guest: Guest, kubectl: Kubectl, steps: Sequence[Step] = ()) -> None:
    with NodeStage(kubectl, guest.node) as stage:
        namespace = stage.namespace()
        stage.kubectl.apply(placed("full-0", namespace, guest.kernel, FILL_MEMORY, LIMIT))
        _start_pods(stage, guest, namespace, "pod-0")
        before = guest.look()
        assert before.release.startswith(f"{guest.kernel}.")
        assert not any(one.merges or one.merged_pages for one in before.processes)
        for one in before.processes:
            assert one.cgroup.startswith("/kubepods.slice/kubepods-")
            assert one.cgroup.endswith(".scope")
        policy = stage.policy(
            nodeSelector={"matchLabels": {"kubernetes.io/hostname": guest.node}},
            ksmd={"cpuLimit": "1"},
            # Which samples memory, for minutes where a processor is emulated; the vm tier shows it.
            enrollment={"hugePages": "Split"},
        )
        stage.wait_until_ready(policy, timeout=SECONDS)
        assert len(_agents(stage)) == 1
        _start_pods(stage, guest, namespace, "late-0")

        status = wait_until(lambda: _saving(stage), SECONDS, "the KSMNode says what is saved")
        assert status["kernel"]["release"].startswith(f"{guest.kernel}.")
        assert status["pods"]["matched"] == 3
        assert status["pods"]["merging"] == 2
        assert "NoHeadroom" in {one["reason"] for one in status["containers"]["skipped"]}
        everyone = guest.look().of(_containers(kubectl, namespace, "pod-0", "late-0"))
        assert len(everyone) == 2 * PROCESSES_PER_POD, everyone
        assert all(one.merges for one in everyone), everyone
        assert sum(one.merged_pages for one in everyone) * PAGE > SAVED_BYTES, everyone
        full = guest.look().of(_containers(kubectl, namespace, "full-0"))
        assert full
        assert not any(one.merges for one in full), full

        for step in steps:
            step(stage, guest, namespace)
            assert _same(everyone) <= _same([one for one in guest.look().processes if one.merges])
        _release(stage, guest)

        after = guest.look()
        # The same processes as before: none was killed, no container was restarted.
        alive = after.of(_containers(kubectl, namespace, "pod-0", "late-0", "full-0"))
        assert _same(everyone) | _same(full) <= _same(alive)
        assert not any(one.merges or one.merged_pages for one in after.processes), after.processes
        assert after.settings == before.settings
        assert after.killed == before.killed


def _saving(stage: Stage) -> dict[str, Any]:
    status = stage.node_status()
    return status if status["memory"]["savedBytes"] > SAVED_BYTES else {}


def _kill_agent(stage: Stage, guest: Guest, _namespace: str) -> None:
    """SIGKILL, and the kubelet starts the next one, which goes on."""

    def restarts() -> int:
        (agent,) = _agents(stage)
        (status,) = agent["status"]["containerStatuses"]
        return int(status["restartCount"]) if status["ready"] else -1

    guest.run("kill -9 $(pidof ksm-agent)")
    wait_until(lambda: restarts() == 1, SECONDS, "another agent is ready")
    wait_until(lambda: stage.node_ready_reason() == "Merging", SECONDS, "it merges")


def _exec(stage: Stage, guest: Guest, namespace: str) -> None:
    """A process that enters a container which was seen to merges too, and not by the resync."""
    merged = [_merging_exec(stage, guest, namespace) for _ in range(EXECS)]
    pauses = [later - earlier for earlier, later in pairwise(merged)]
    assert min(pauses) < RESYNC_SECONDS - LOOKS * LOOK_SECONDS, pauses


def _merging_exec(stage: Stage, guest: Guest, namespace: str) -> float:
    """Start a process by kubectl exec, and return when it was seen to merge."""
    containers = _containers(stage.kubectl, namespace, "pod-0")
    before = _same(guest.look().of(containers))
    entered = stage.kubectl.start("exec", "-n", namespace, "pod-0", "--", "sleep", "1000000")
    try:
        wait_until(
            lambda: [
                one
                for one in guest.look().of(containers)
                if one.merges and (one.pid, one.start) not in before
            ],
            SECONDS,
            "what kubectl exec has started merges",
            poll=LOOK_SECONDS,
        )
        return time.monotonic()
    finally:
        entered.kill()
        entered.wait()


def _leave_and_come_back(stage: Stage, guest: Guest, namespace: str) -> None:
    """A pod's label has the last word, in both directions, on a pod that runs."""
    label = ("label", "-n", namespace, "--overwrite", "pod", "late-0")
    gone, stays = (_containers(stage.kubectl, namespace, name) for name in ("late-0", "pod-0"))

    def only_the_other_merges() -> bool:
        view = guest.look()
        assert {one.merges for one in view.of(stays)} == {True}
        return not any(one.merges or one.merged_pages for one in view.of(gone))

    def both_merge() -> bool:
        return all(one.merges for one in guest.look().of(gone + stays))

    stage.kubectl(*label, f"{MERGE_LABEL}=disabled")
    wait_until(only_the_other_merges, SECONDS, "one labelled disabled is let go", poll=LOOK_SECONDS)
    stage.kubectl(*label, f"{MERGE_LABEL}-")
    wait_until(both_merge, SECONDS, "it merges again without the label", poll=LOOK_SECONDS)


def _refill(stage: Stage, guest: Guest, namespace: str) -> None:
    """Who pays for what two share writes all of it anew: there is room for that."""
    names = ("one", "two")
    stage.kubectl.apply(*(onto(refilling(name, namespace), guest.kernel) for name in names))
    guest.wait_for_pods(namespace, SECONDS)
    containers = _containers(stage.kubectl, namespace, *names)

    def shared() -> int:
        # Who keeps a part to itself counts, and not who goes on mapping what was shared.
        return min(one.merged_pages for one in guest.look().of(containers)) * PAGE

    pods = Refilling(
        stage.kubectl, namespace, names, shared, seconds=SECONDS, poll=2 * LOOK_SECONDS
    )
    pods.wait_until_filled()
    killed = guest.look().killed
    pods.wait_until_shared()
    pods.refill(2)
    pods.wait_until_shared()
    assert guest.look().killed == killed
    stage.kubectl("delete", "pod", *names, "-n", namespace)


def _intrude(stage: Stage, guest: Guest, _namespace: str) -> None:
    """A pod outside of the domain that asks by itself stops merging until it goes."""

    def runs(value: str, why: str) -> None:
        def is_so() -> bool:
            return guest.look().settings["run"] == value

        wait_until(is_so, SECONDS, f"run reads {value}: {why}", poll=LOOK_SECONDS)

    runs("1", "the domain is alone")
    other = stage.namespace("other", labels={})
    stage.kubectl.apply(onto(pod("intruder", other, program=INTRUDE), guest.kernel))
    runs("0", "it is not alone")
    name = f"{other}/intruder"
    wait_until(
        lambda: [one["pod"] for one in stage.node_status()["foreignMergers"]] == [name],
        SECONDS,
        "the KSMNode names it",
    )
    isolated = condition(stage.kubectl.find("ksmnode", stage.node), "Isolated")
    assert (isolated["status"], isolated["reason"]) == ("False", "ForeignMergers")
    stage.kubectl("delete", "pod", "intruder", "-n", other)
    runs("1", "the domain is alone again")


def _drain(guest: Guest, kubectl: Kubectl) -> None:
    """A node is emptied for its maintenance: nothing stays merged there, and its agent waits."""
    with NodeStage(kubectl, guest.node) as stage:
        namespace = stage.namespace()
        _start_pods(stage, guest, namespace, "pod-0", "pod-1")
        policy = stage.policy(
            nodeSelector={"matchLabels": {"kubernetes.io/hostname": guest.node}},
            ksmd={"cpuLimit": "1"},
            enrollment={"hugePages": "Split"},
        )
        stage.wait_until_ready(policy, timeout=SECONDS)
        wait_until(lambda: _saving(stage), SECONDS, "the KSMNode says what is saved")
        before = [one["metadata"]["uid"] for one in _agents(stage)]

        stage.kubectl("cordon", guest.node)
        assert _saving(stage), "pods that run there merge as before"
        guest.drain(SECONDS)
        wait_until(lambda: _is_at_rest(guest), SECONDS, "ksmd rests", poll=LOOK_SECONDS)
        wait_until(lambda: _saves_nothing(stage), SECONDS, "the KSMNode says that it is empty")
        assert stage.node_ready_reason() == "Merging"
        assert [one["metadata"]["uid"] for one in _agents(stage)] == before
        stage.wait_until_ready(policy, timeout=SECONDS)

        stage.kubectl("uncordon", guest.node)
        _start_pods(stage, guest, namespace, "pod-2")
        back = _containers(kubectl, namespace, "pod-2")
        wait_until(
            lambda: {one.merges for one in guest.look().of(back)} == {True},
            SECONDS,
            "who comes to the node again merges",
            poll=LOOK_SECONDS,
        )
        _release(stage, guest)


def _is_at_rest(guest: Guest) -> bool:
    view = guest.look()
    merged = [one for one in view.processes if one.merges or one.merged_pages]
    return not merged and view.settings["run"] == "0"


def _saves_nothing(stage: Stage) -> bool:
    status = stage.node_status()
    return bool(status["memory"]["savedBytes"] == 0 and status["pods"]["matched"] == 0)


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
