"""Looking at nodes through the agents' pods, which see what runs there."""

import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from demo.figures import (
    MIB,
    Pod,
    Sample,
    by_node,
    has_levelled,
    is_at_rest,
    meminfo,
    mib,
    percent,
    pods,
    sample,
    shares,
)
from demo.names import AGENTS, NAMESPACE, PROCESSES_PER_POD, WEB
from demo.shell import REPOSITORY, DemoError, Shell, say

LOOK = REPOSITORY / "hack" / "demo" / "processes.py"
KSM = "/sys/kernel/mm/ksm"
POLL_SECONDS = 3.0
WATCH_SECONDS = 150.0
QUIET_SECONDS = 45.0
QUIET_BYTES = 12 * MIB
STATISTICS = ("pages_sharing", "ksm_zero_pages", "full_scans")


def running_pods(shell: Shell, namespace: str) -> list[Pod]:
    """The pods of the demo in a namespace that have a node."""
    return pods(shell.objects("pods", "-n", namespace, "-l", "app.kubernetes.io/name=web"))


@dataclass(frozen=True)
class Memory:
    """Memory of the pods' nodes, added up.

    Attributes:
        available: MemAvailable in bytes.
        programs: AnonPages in bytes: the private memory of all programs, a merged page once.
    """

    available: int
    programs: int


def memory(shell: Shell, web: Sequence[Pod], *, show: bool = False) -> Memory:
    """Read /proc/meminfo in one pod of each node: in a container it is the node's."""
    available = programs = 0
    for node, there in by_node(web).items():
        command = ["kubectl", "exec", "-n", WEB, there[0].name, "--"]
        command += ["grep", "-E", "^(MemTotal|MemAvailable|AnonPages):", "/proc/meminfo"]
        values = meminfo(shell.read(*command))
        if show:
            say(f"$ {shlex.join(command)}")
            say(
                f"{node}: {mib(values['MemAvailable'])} of {mib(values['MemTotal'])} available, "
                f"programs hold {mib(values['AnonPages'])}"
            )
        available += values["MemAvailable"]
        programs += values["AnonPages"]
    return Memory(available, programs)


def wait_for_quiet(shell: Shell, web: Sequence[Pod]) -> None:
    """Wait until MemAvailable stands still.

    What programs gave back while they started lies in per-CPU lists for some seconds, where
    MemAvailable does not count it (Linux 6.7 and newer).
    """
    deadline = time.monotonic() + QUIET_SECONDS
    before = memory(shell, web)
    while time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        now = memory(shell, web)
        if abs(now.available - before.available) < QUIET_BYTES:
            return
        before = now


@dataclass(frozen=True)
class Truth:
    """What `ksm-node duplicates` counted.

    Attributes:
        duplicate: bytes that merging everything saves.
        private: bytes of private memory by pid.
    """

    duplicate: int
    private: dict[int, int]


@dataclass(frozen=True)
class Nodes:
    """The nodes of some pods.

    Attributes:
        shell: where kubectl runs.
        agents: the agent's pod of each node.
    """

    shell: Shell
    agents: dict[str, str]

    @classmethod
    def find(cls, shell: Shell, there: Sequence[Pod], *, needs_agent: bool = True) -> "Nodes":
        """The agents on the pods' nodes.

        Raises:
            DemoError: a node has none, and it is needed.
        """
        agents = {
            pod.node: pod.name for pod in pods(shell.objects("pods", "-n", NAMESPACE, "-l", AGENTS))
        }
        wanted = set(by_node(there))
        if needs_agent and wanted - set(agents):
            raise DemoError(
                f"no agent runs on {', '.join(sorted(wanted - set(agents)))}: "
                f"kubectl get pods -n {NAMESPACE} -o wide"
            )
        return cls(shell, {node: agents[node] for node in sorted(wanted & set(agents))})

    def _exec(self, node: str, *command: str, stdin: str | None = None, show: bool = False) -> str:
        interactive = ["-i"] if stdin is not None else []
        full = ["kubectl", "exec", *interactive, "-n", NAMESPACE, self.agents[node], "--", *command]
        if show:
            say(f"$ {_short(full)}{'' if stdin is None else f' < {LOOK.relative_to(REPOSITORY)}'}")
        return self.shell.read(*full, stdin=stdin)

    def _look(self, node: str, *arguments: str, show: bool = False) -> list[dict[str, Any]]:
        text = self._exec(node, "python3", "-", *arguments, stdin=LOOK.read_text(), show=show)
        found: list[dict[str, Any]] = json.loads(text)
        return found

    def processes(self, there: Sequence[Pod]) -> list[dict[str, Any]]:
        """The pods' processes on nodes that have an agent, as processes.py prints them."""
        found: list[dict[str, Any]] = []
        for node, here in by_node(there).items():
            if node in self.agents:
                found += [
                    one | {"node": node} for one in self._look(node, *(pod.uid for pod in here))
                ]
        return found

    def duplicates(self, there: Sequence[Pod]) -> Truth:
        """Count identical pages; each node's by itself, as merging does not reach across."""
        duplicate = 0
        private: dict[int, int] = {}
        for node, here in by_node(there).items():
            pids = [str(one["pid"]) for one in self._look(node, *(pod.uid for pod in here))]
            text = self._exec(node, "ksm-node", "-o", "json", "duplicates", *pids, show=True)
            report = json.loads(text)
            duplicate += report["duplicateBytes"]
            private |= {one["pid"]: one["privateBytes"] for one in report["processes"]}
        return Truth(duplicate, private)

    def _ksmd(self, node: str) -> str:
        """The process id of ksmd; processes that end meanwhile are grep's only trouble."""
        text = self._exec(node, "sh", "-c", "grep -lxs ksmd /proc/[0-9]*/comm || true")
        if not text:
            raise DemoError(f"node {node} shows no ksmd: its kernel has no KSM (CONFIG_KSM)")
        return text.split("/")[2]

    def watch(self, truth: int, since: float) -> list[Sample]:
        """Print what is saved until it stops growing and ksmd rests; returns what was seen."""
        ksmd = {node: self._ksmd(node) for node in self.agents}
        page_size = int(self._exec(next(iter(self.agents)), "getconf", "PAGESIZE"))
        files = [f"{KSM}/{name}" for name in STATISTICS]
        say(f"$ kubectl exec -n {NAMESPACE} AGENT -- grep . {' '.join(files)}")
        say(f"{'after':>7}  {'saved':>10}  {'of duplicates':>13}  {'ksmd':>6}  full scans")
        samples: list[Sample] = []
        end = time.monotonic() + WATCH_SECONDS
        while True:
            texts = [
                self._exec(node, "grep", "-H", ".", *files, f"/proc/{ksmd[node]}/schedstat")
                for node in self.agents
            ]
            now = sample(time.monotonic(), texts, page_size)
            samples.append(now)
            cpu = "".join(f"{1000 * share:.0f}m" for share in shares(samples[-2:]))
            say(
                f"{now.seconds - since:5.0f} s  {mib(now.saved):>10}  "
                f"{percent(now.saved, truth):>13}  {cpu:>6}  {now.scans - samples[0].scans}"
            )
            rests = has_levelled(samples, truth) and is_at_rest(samples, len(self.agents))
            if rests or time.monotonic() > end:
                return samples
            time.sleep(POLL_SECONDS)

    def show_mergeable(self, found: Sequence[dict[str, Any]]) -> None:
        """Print the kernel's own words on these processes."""
        for node in self.agents:
            here = [one for one in found if one["node"] == node]
            if here:
                files = [f"/proc/{one['pid']}/ksm_stat" for one in here]
                text = self._exec(node, "grep", "-H", here[0]["saidBy"], *files, show=True)
                say(text.rstrip())

    def watch_newcomer(self, pod: Pod) -> list[dict[str, Any]]:
        """Each process of a new pod as it was when it was first seen mergeable.

        Raises:
            DemoError: it was not caught in time.
        """
        caught = self._look(pod.node, "--until", str(PROCESSES_PER_POD), pod.uid, show=True)
        if len(caught) < PROCESSES_PER_POD:
            raise DemoError(
                f"only {len(caught)} processes of pod {pod.name} are mergeable: "
                f"kubectl logs -n {NAMESPACE} {self.agents[pod.node]}"
            )
        return caught


def _short(command: Sequence[str]) -> str:
    """A command on one line, with only the first few of many process ids."""
    shown = 14
    more = [] if len(command) <= shown else ["..."]
    return " ".join([shlex.join(command[:shown]), *more])
