"""A whole agent of this machine without an API server: it goes on as it was told last."""

import contextlib
import math
import os
import re
import signal
import sys
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from kernel.conftest import Cgroup, Start, Target
from ksm_operator.agent import debt, http, obey
from ksm_operator.agent.agent import Agent
from ksm_operator.agent.client import Access, Client
from ksm_operator.agent.host import boot_id, open_host
from ksm_operator.agent.identity import Identity
from ksm_operator.agent.metrics import Metrics
from ksm_operator.agent.state import Container, State, load, save
from ksm_operator.agent.vigilance import Glance, Looked, Vigilance
from ksm_operator.agent.wire import Isolation, Ksmd, NodePolicy, NodeSpec, Owner, to_json_types
from ksm_operator.kernel import Hierarchy, Process
from ksm_operator.kernel.marks import Marks

STATE = "state.json"
STEADY = Ksmd(
    tuning="Fixed",
    cpu_limit_milli_cpu=1000,
    pages_to_scan=1000,
    sleep_milliseconds=10,
    smart_scan=False,
)
"""Scans go on for ever, however slow the machine is, and the limit never stops them."""


class Asleep(Vigilance):
    """A guard that never looks, to see what it is for."""

    def is_due(self, last: Looked | None, now: float, glance: Glance) -> bool:  # noqa: ARG002
        """Never."""
        return False


VIGILANCE = {"asleep": Asleep(), "restless": Vigilance(rest_seconds=math.inf)}


def uncapped(before: debt.Debt | None, size: int, room: int, total: int) -> debt.Debt:
    """A node that may owe any amount, to see what the cap is for."""
    return replace(debt.reckon(before, size, room, total), is_held=False)


class WholeAgent:
    """One that runs."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._port = int(target.line())

    def metric(self, name: str) -> float:
        """What it tells Prometheus; 0 for a series that it does not show."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=30) as answer:
            found = re.search(rf"^{re.escape(name)} (\S+)$", answer.read().decode(), re.MULTILINE)
        return float(found.group(1)) if found is not None else 0.0

    def end(self) -> None:
        """As when its pod is deleted."""
        self._target.popen.send_signal(signal.SIGTERM)
        assert self._target.popen.wait(timeout=60) == 0


def record(
    directory: Path,
    hierarchy: Hierarchy,
    members: Iterable[tuple[Cgroup, Target]],
    told: str,
    *,
    reserve_percent: int = 10,
    marks: Mapping[Process, Marks] | None = None,
) -> None:
    """Write what an agent before it left behind: who is enrolled, and what it was told last.

    Those with marks are enrolled by ranges.
    """
    containers = {}
    for cgroup, target in members:
        path = "/" + str(cgroup.directory.relative_to(hierarchy.mount))
        containers[path] = Container("a-pod", path)
        containers[path].put(target.process, (marks or {}).get(target.process))
    owner = Owner("web", "a-policy", 1)
    policy = NodePolicy(
        namespaces=("web",),
        ksmd=STEADY,
        # The tests' cgroups are not named as a pod's, so whoever lives there is a stranger.
        isolation=Isolation(on_foreign_merging="Report"),
        release_reserve_percent=reserve_percent,
    )
    spec = NodeSpec(owner=owner, desired_state=told, policy=policy)
    state = State(boot_id(), owner=owner.uid, containers=containers, told=to_json_types(spec))
    save(directory / STATE, state)


@contextlib.contextmanager
def running(start: Start, directory: Path, *words: str) -> Iterator[WholeAgent]:
    """Let an agent go on from its record.

    It may be `asleep`, so that its guard never looks, or `restless`, so that it looks only where it
    is urgent, or `uncapped`, whatever the node owes.
    """
    path = os.pathsep.join(sys.path)
    agent = WholeAgent(
        start(
            *("env", f"PYTHONPATH={path}", sys.executable, "-u", "-m", "kernel.whole_agent"),
            *(str(directory), *words),
        )
    )
    yield agent
    agent.end()


def main(directory: Path, *words: str) -> None:
    """Be that agent until SIGTERM."""
    host = open_host()
    metrics = Metrics("test")
    nowhere = Access("https://127.0.0.1:9", directory / "token", directory / "ca")
    agent = Agent(
        Identity("a-node", "", directory / STATE, "test"),
        Client(nowhere),
        host,
        load(directory / STATE, boot_id()),
        metrics,
        vigilance=next((VIGILANCE[word] for word in words if word in VIGILANCE), None),
    )
    signal.signal(signal.SIGTERM, lambda *_: agent.stop())
    server = http.serve(0, metrics, agent.silent_for, gate=None)
    print("ready", server.server_address[1], sep="\n")
    with patch.object(obey, "reckon", uncapped if "uncapped" in words else debt.reckon):
        agent.run()
    host.tracer.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
