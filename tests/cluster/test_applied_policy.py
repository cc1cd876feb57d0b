"""One policy that is applied, seen from every side: the kernel, the API, and a person's shell."""

import os
import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.command import Kubectl, condition, wait_until
from cluster.operator_release import AGENT_SELECTOR, CONTROLLER_SELECTOR, NAMESPACE, RELEASE
from cluster.pods import Process, all_merge, none_merges, processes
from cluster.stage import Stage
from support import kernel

STATUS_SECONDS = 90
"""Status is quiet on purpose: figures are written at most once a minute."""
EXEC_SECONDS = 10
"""Who joins a container makes no cgroup. Twice this is less than a minute, after which the agent
looks at every container anyhow."""


@dataclass(frozen=True)
class Applied:
    """A policy that kubectl has seen Ready, and what it shall and shall not touch."""

    stage: Stage
    policy: str
    selected: str
    other: str

    @property
    def inside(self) -> list[Process]:
        """The processes of the selected pods."""
        return processes(self.stage.kubectl, self.selected)

    @property
    def outside(self) -> list[Process]:
        """The processes of pods that are not selected."""
        return processes(self.stage.kubectl, self.other)

    def count_pods(self) -> int:
        """How many pods are selected."""
        return len(self.stage.kubectl.items("pods", "-n", self.selected))


@pytest.fixture(scope="module")
def applied(kubectl: Kubectl, node: str, operator_installed: None) -> Iterator[Applied]:
    """Running pods, then a policy for some of them, then `kubectl wait`."""
    with Stage(kubectl, node) as stage:
        selected, other = stage.namespace("web"), stage.namespace("other", labels={})
        stage.pods(selected, 3)
        stage.pods(other, 2)
        policy = stage.policy()
        stage.wait_until_ready(policy)
        yield Applied(stage, policy, selected, other)


def test_all_processes_of_the_selected_pods_merge_and_no_other(applied: Applied) -> None:
    """The promise itself, and that Ready is said only once it is true."""
    assert all_merge(applied.inside), [one for one in applied.inside if not one.merges]
    assert none_merges(applied.outside)

    def no_other_merges() -> bool:
        return kernel.merging_processes() <= {one.pid for one in applied.inside}

    # A pod of another test may just have started: its sandbox is let go when it execs `pause`.
    wait_until(no_other_merges, 5, "no process outside of the containers merges")


def test_observing_gives_all_back_and_says_what_merging_would_save(applied: Applied) -> None:
    """A careful administrator's first step, and the way back to it."""
    stage = applied.stage

    def memory() -> dict[str, Any]:
        found = stage.kubectl.find("ksmpolicy", applied.policy) or {}
        told: dict[str, Any] = found.get("status", {}).get("memory", {})
        return told

    wait_until(lambda: kernel.counter("pages_sharing") > 1000, 60, "over 1000 pages are shared")
    stage.edit(applied.policy, mode="Observe")
    try:
        wait_until(lambda: stage.node_ready_reason() == "Observing", 60, "the node observes")
        assert none_merges(applied.inside)
        assert kernel.settings() == stage.settings
        wait_until(lambda: "estimatedSavedBytes" in memory(), STATUS_SECONDS, "the figure is there")
        assert memory()["estimatedSavedBytes"] > 1000 * os.sysconf("SC_PAGE_SIZE")
        assert "give or take" in stage.policy_condition(applied.policy, "Ready")["message"]
        row = stage.kubectl("get", "ksmpolicy", applied.policy).stdout
        assert "Observe" in row
        assert "~" in row
        assert none_merges(applied.inside)
    finally:
        stage.edit(applied.policy, mode="Enforce")
    wait_until(lambda: all_merge(applied.inside), 60, "all processes merge again")
    stage.wait_until_ready(applied.policy)
    assert "estimatedSavedBytes" not in memory()


def test_pages_are_really_shared(applied: Applied) -> None:
    """Being mergeable saves nothing: ksmd must find the pages, in every pod."""
    wait_until(lambda: kernel.counter("pages_sharing") > 1000, 60, "over 1000 pages are shared")

    def everyone_shares() -> bool:
        return all(kernel.merged_pages(one.pid) > 0 for one in applied.inside)

    wait_until(everyone_shares, 60, "every process maps merged pages")


def test_node_status_tells_the_truth(applied: Applied) -> None:
    """People decide on a KSMNode's figures; they must be those of the kernel."""
    stage = applied.stage

    def figures_agree() -> bool:
        status = stage.node_status()
        inside = applied.inside
        assert status["pods"]["matched"] == status["pods"]["merging"] == applied.count_pods()
        containers = status["containers"]
        assert containers["merging"] == applied.count_pods()
        # A sandbox for each pod: counted, and named for what it is.
        assert containers["skipped"] == [{"reason": "Pause", "count": applied.count_pods()}]
        assert containers["matched"] == 2 * applied.count_pods()
        assert status["processes"]["merging"] == len(inside)
        pages = kernel.counter("pages_sharing") + kernel.counter("ksm_zero_pages")
        truth = pages * os.sysconf("SC_PAGE_SIZE")
        # A minute old at most: a pod that joined since then may not be in it.
        assert 0.5 * truth <= status["memory"]["savedBytes"] <= 1.2 * truth, truth
        return truth > 0

    wait_until(figures_agree, STATUS_SECONDS, "the KSMNode's figures agree with the kernel's")
    status = stage.node_status()
    policy = stage.kubectl.get("ksmpolicy", applied.policy)
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert status["owner"] == {"uid": policy["metadata"]["uid"]}
    assert status["bootID"] == boot_id
    assert status["kernel"]["release"] == os.uname().release
    assert status["kernel"]["method"] == "Prctl"
    assert status["baseline"]["run"] == "0"
    node = stage.kubectl.get("ksmnode", stage.node)
    assert status["observedGeneration"] == node["metadata"]["generation"]
    for kind, state, reason in (
        ("Ready", "True", "Merging"),
        ("Released", "False", "NotReleased"),
        ("Isolated", "True", "NoForeignMergers"),
        ("Degraded", "False", "AsExpected"),
    ):
        found = condition(node, kind)
        assert (found["status"], found["reason"]) == (state, reason), found


def test_policy_status_tells_the_truth(applied: Applied) -> None:
    """The policy sums its nodes up; that is where most people will look, and only there."""
    stage = applied.stage

    def figures_agree() -> bool:
        status = stage.kubectl.get("ksmpolicy", applied.policy)["status"]
        count = applied.count_pods()
        assert status["pods"]["summary"] == f"{count}/{count}"
        assert status["memory"]["savedBytes"] == stage.node_status()["memory"]["savedBytes"]
        return bool(status["memory"]["savedBytes"] > 0)

    wait_until(figures_agree, STATUS_SECONDS, "the policy's figures agree with its node's")
    policy = stage.kubectl.get("ksmpolicy", applied.policy)
    status = policy["status"]
    assert status["observedGeneration"] == policy["metadata"]["generation"]
    assert status["nodes"]["summary"] == "1/1"
    assert status["nodes"]["matched"] == status["nodes"]["ready"] == 1
    assert status["namespaces"] == {"count": 1, "names": [applied.selected]}
    for kind, state in (
        ("Ready", "True"),
        ("Degraded", "False"),
        ("Isolated", "True"),
        ("Conflicted", "False"),
    ):
        found = condition(policy, kind)
        assert found["status"] == state, found
        assert found["observedGeneration"] == policy["metadata"]["generation"]
    for kind in ("Reconciling", "Stalled"):
        assert not condition(policy, kind), f"{kind} is present only while it is true"


@dataclass(frozen=True)
class Tokens:
    """Of an account that may read the metrics, and of one that may not."""

    reader: str
    stranger: str


@pytest.fixture(scope="module")
def tokens(applied: Applied) -> Iterator[Tokens]:
    """Two accounts outside of the operator's namespace, of which one is bound as documented."""
    kubectl, made = applied.stage.kubectl, []
    for name in ("reader", "stranger"):
        metadata = {"name": name, "namespace": applied.other}
        kubectl.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
        made.append(kubectl("create", "token", name, "-n", applied.other).stdout.strip())
    binding = f"{applied.stage.name}-reader"
    kubectl(
        *("create", "clusterrolebinding", binding, f"--clusterrole={RELEASE}-metrics-reader"),
        f"--serviceaccount={applied.other}:reader",
    )
    yield Tokens(*made)
    kubectl("delete", "clusterrolebinding", binding)


def _get(kubectl: Kubectl, selector: str, path: str, token: str = "") -> tuple[int, str]:
    """Status and body, as a scraper on the pod network has them."""
    [pod] = kubectl.items("pods", "-n", NAMESPACE, "-l", selector)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"http://{pod['status']['podIP']}:8080{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.parametrize(
    ("selector", "series"),
    [(AGENT_SELECTOR, "ksm_node_saved_bytes"), (CONTROLLER_SELECTOR, "ksm_operator_leading")],
    ids=["agent", "controller"],
)
def test_metrics_are_read_by_who_may_and_nobody_else(
    applied: Applied, tokens: Tokens, selector: str, series: str
) -> None:
    """Savings are a side channel: a pod that reaches the port must not read them for that."""
    kubectl = applied.stage.kubectl
    assert _get(kubectl, selector, "/healthz")[0] == 200
    code, words = _get(kubectl, selector, "/metrics")
    assert code == 401
    assert "Authorization: Bearer TOKEN" in words
    assert _get(kubectl, selector, "/metrics", "made.up.token")[0] == 401
    code, words = _get(kubectl, selector, "/metrics", tokens.stranger)
    assert code == 403
    assert f"system:serviceaccount:{applied.other}:stranger may not" in words

    def is_read() -> bool:
        return _get(kubectl, selector, "/metrics", tokens.reader)[0] == 200

    # The API server's authorizer learns of a binding by a watch.
    wait_until(is_read, 30, "the account that was bound reads the metrics")
    assert series in _get(kubectl, selector, "/metrics", tokens.reader)[1]


def test_an_agent_tells_what_its_work_cost(applied: Applied, tokens: Tokens) -> None:
    """Whether targets stood still for long, and how much was scanned, is asked on every node."""

    def figures() -> dict[str, float]:
        text = _get(applied.stage.kubectl, AGENT_SELECTOR, "/metrics", tokens.reader)[1]
        found = dict(re.findall(r"^(ksm_\w+) (\S+)$", text, re.MULTILINE))
        return {name: float(value) for name, value in found.items()}

    def has_worked() -> bool:
        shown = figures()
        # One injection for each container at least; what it forks inherits.
        assert shown["ksm_agent_injection_stop_seconds_count"] >= applied.count_pods()
        assert 0 < shown["ksm_agent_injection_stop_seconds_sum"] < 5
        return shown["ksm_node_pages_scanned_total"] > 0 and shown["ksm_node_full_scans_total"] > 0

    wait_until(has_worked, 60, "the agent's counters have moved")


def test_containers_are_shown_by_their_pods_names(applied: Applied, tokens: Tokens) -> None:
    """Whoever sizes pods reads what each would use without merging, and of no other pod."""
    kubectl = applied.stage.kubectl
    line = re.compile(r'ksm_container_unmerged_bytes\{.*namespace="(.+?)",pod="(.+?)".*\} (.+)')

    def figures() -> dict[tuple[str, str], float]:
        code, text = _get(kubectl, AGENT_SELECTOR, "/metrics", tokens.reader)
        assert code == 200
        found = {(space, pod): float(size) for space, pod, size in line.findall(text)}
        assert {space for space, _ in found} == {applied.selected}
        pods = kubectl.items("pods", "-n", applied.selected)
        assert {pod for _, pod in found} == {one["metadata"]["name"] for one in pods}
        return found

    found = wait_until(figures, STATUS_SECONDS, "every selected pod is in the metrics")
    for pod, size in found.items():
        assert 20 << 20 < size < 1 << 30, pod


def test_kubectl_get_shows_the_columns(applied: Applied) -> None:
    """`kubectl get` is the first command that anybody types."""
    kubectl = applied.stage.kubectl
    header, row = kubectl("get", "ksmpolicy", applied.policy).stdout.splitlines()
    assert header.split() == ["NAME", "READY", "MODE", "NODES", "PODS", "SAVED", "AGE"]
    assert row.split()[:4] == [applied.policy, "True", "Enforce", "1/1"]
    wide = kubectl("get", "ksmp", applied.policy, "-o", "wide").stdout.splitlines()
    assert "KSMD CPU" in wide[0]
    assert {"ISOLATED", "REASON"} <= set(wide[0].split())
    assert "AllNodesReady" in wide[1]
    header, row = kubectl("get", "ksmn").stdout.splitlines()
    assert header.split()[:5] == ["NAME", "POLICY", "DESIRED", "READY", "REASON"]
    assert row.split()[:5] == [applied.stage.node, applied.policy, "Merging", "True", "Merging"]


def test_kubectl_describe_shows_events(applied: Applied) -> None:
    """A person who asks why reads `kubectl describe`, which shows Events of namespace default."""

    def events() -> str:
        text = applied.stage.kubectl("describe", "ksmpolicy", applied.policy).stdout
        told = text.partition("Events:")[2].strip()
        return "" if told == "<none>" else told

    assert "Normal" in wait_until(events, 20, "Events of the policy")


def test_a_new_pod_is_enrolled_with_its_children(applied: Applied) -> None:
    """A policy is for pods to come: nobody applies it again for each."""
    stage = applied.stage
    before = {one.pid for one in applied.inside}
    stage.pods(applied.selected, 1, prefix="late")
    new = [one for one in applied.inside if one.pid not in before]
    assert len(new) == 3
    wait_until(lambda: all_merge(new), 15, "the new pod's process, fork and exec are mergeable")


def test_a_process_of_kubectl_exec_is_enrolled(applied: Applied) -> None:
    """It is no child of the container's first process: nothing is inherited, no cgroup made.

    Two in a row: of those, the look of once a minute finds one at most.
    """
    for _ in range(2):
        # Of one that was there before the agent, which glances at young ones all the time.
        _assert_exec_is_enrolled(applied, "pod-0")


def _assert_exec_is_enrolled(applied: Applied, pod: str) -> None:
    before = {one.pid for one in applied.inside}
    program = "import time; time.sleep(90)"
    session = applied.stage.kubectl.start(
        *("exec", "-n", applied.selected, pod, "--", "python3", "-c", program)
    )
    new: list[Process] = []
    try:
        new = wait_until(
            lambda: [one for one in applied.inside if one.pid not in before],
            10,
            "kubectl exec started a process",
        )
        started = time.monotonic()
        wait_until(lambda: all_merge(new), EXEC_SECONDS, "the process of kubectl exec merges")
        print(f"kubectl exec: enrolled {time.monotonic() - started:.2f} s after it was seen")
    finally:
        for one in new:
            os.kill(one.pid, signal.SIGKILL)
        session.kill()
        session.wait()
