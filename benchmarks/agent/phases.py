"""The measurements: each makes what it measures and leaves the node empty."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Final

from benchmarks.agent.containers import wait_for
from benchmarks.agent.usage import observe
from benchmarks.controller.report import Figure
from benchmarks.enrolment_rate import idle
from benchmarks.programs import hogs
from ksm_operator.agent.newborn import GROWN_UP
from support import kernel

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from benchmarks.agent.containers import Answer, PodTree, Runtime, Started
    from benchmarks.agent.node import PlayedNode

ENROLLED_SECONDS: Final = 120.0
SETTLING_SECONDS: Final = 20.0
"""The agent looks at a new container for ten seconds; then nothing happens any more."""
YOUTH_MARGIN_SECONDS: Final = 2.0
"""From its first process's first instruction; the agent may have seen it a little later."""
EXECS: Final = 10
HOGS: Final = 2
MIB_TARGET: Final = 48.0


@dataclass(frozen=True, slots=True)
class Bench:
    """What every measurement needs.

    Attributes:
        node: with its agent.
        tree: where cgroups are made.
        idle: the program of processes that do nothing.
    """

    node: PlayedNode
    tree: PodTree
    idle: Path


def one_by_one(bench: Bench, runtime: Runtime, count: int) -> list[Figure]:
    """Containers of one new pod each, made one after the other."""
    answers = []
    for _ in range(count):
        started = runtime.start(bench.node.create_pod("one").uid)
        answers += wait_for([started])
        # A finished container is gone when the next one comes, so that the node stays small.
        runtime.end()
    bench.node.delete_pods()
    return _answered(f"{runtime.name}, {count} one by one", answers, target=True)


def at_once(bench: Bench, runtime: Runtime, count: int) -> list[Figure]:
    """Containers of one new pod each, all made at once on a machine that is busy already."""
    uids = [bench.node.create_pod("burst").uid for _ in range(count)]
    with hogs(HOGS):
        began = time.monotonic()
        started = runtime.start_all(uids)
        answers = wait_for(started)
        took = time.monotonic() - began
    runtime.end()
    bench.node.delete_pods()
    what = f"{runtime.name}, {count} at once beside {HOGS} busy loops"
    return [
        *_answered(what, answers, target=False),
        Figure("- from the first call of the runtime until all are enrolled", took, "s"),
    ]


def kinds_of_containers(bench: Bench, runtime: Runtime) -> list[Figure]:
    """Init and ephemeral containers, and processes that join a running container."""
    uid = bench.node.create_pod("kinds").uid
    init = _answered_one(runtime.start(uid))
    runtime.end()
    main = runtime.start(uid)
    wait_for([main])
    ephemeral = _answered_one(runtime.start(uid))
    # A young container is glanced at anyhow: of an old one only its exec says that somebody came.
    time.sleep(GROWN_UP + YOUTH_MARGIN_SECONDS)
    joined = []
    for _ in range(EXECS):
        joined += wait_for([runtime.execute(main)])
        time.sleep(1.3)  # so that they do not keep in step with the agent's looks
    runtime.end()
    bench.node.delete_pods()
    name = runtime.name
    return [
        Figure(f"{name}: init container, first instruction to enrolled", init, "s", 0.0),
        Figure(f"{name}: ephemeral container beside a running one", ephemeral, "s", 0.0),
        Figure(
            f"{name}: `exec` into a container older than {GROWN_UP:g} s, "
            f"the slowest of {len(joined)}",
            max(one.seconds for one in joined),
            "s",
            2.0,
        ),
        Figure("- the median", median(one.seconds for one in joined), "s"),
    ]


@contextmanager
def population(bench: Bench, app: str, pods: int, processes: int) -> Iterator[list[int]]:
    """Pods with so many processes each, which do nothing.

    They are put into cgroups named as a kubelet names them: that many real pods would not fit.
    """
    with idle(bench.idle, pods * processes) as made:
        pids = [one.pid for one in made]
        for first in range(0, len(pids), processes):
            bench.tree.put(bench.node.create_pod(app).uid, pids[first : first + processes])
        yield pids
    for pid in pids:
        with suppress(ChildProcessError):  # ours where a runtime made this program a reaper
            os.waitpid(pid, 0)
    bench.node.delete_pods()
    bench.tree.remove()


def edit(bench: Bench, pods: int, processes: int, target: float | None) -> list[Figure]:
    """An edit that selects running pods, and an agent that starts beside them."""
    bench.node.select("none")
    with population(bench, "many", pods, processes) as pids:
        time.sleep(2.0)
        began = time.monotonic()
        bench.node.select("many")
        edited = until_enrolled(pids, began)
    bench.node.stop_agent()
    with population(bench, "many", pods, processes) as pids:
        began = time.monotonic()
        bench.node.start_agent()
        cold = until_enrolled(pids, began)
    what = f"{pods} running pods with {processes} process{'es' if processes > 1 else ''} each"
    return [
        Figure(f"edit that selects {what}, to the last one enrolled", edited, "s", target),
        Figure("- cold start: from the agent's first instruction", cold, "s"),
    ]


def at_rest(bench: Bench, pods: int, processes: int, seconds: float) -> list[Figure]:
    """A full node on which nothing happens."""
    with population(bench, "many", pods, processes) as pids:
        bench.node.select("many")
        until_enrolled(pids, time.monotonic())
        time.sleep(SETTLING_SECONDS)
        assert bench.node.agent is not None
        used = observe(bench.node.agent.pids(), seconds)
    title = f"{pods} pods, {pods * processes:,} processes at rest for {seconds:g} s"
    calls = [] if used.calls is None else [Figure("- system calls", used.calls, "a minute")]
    return [
        Figure(f"{title}: CPU of agent and helper", 100 * used.cpu_share, "% of a core", 1.0),
        Figure("- resident memory of both", used.rss, "MiB", MIB_TARGET),
        Figure("- proportional memory of both (PSS)", used.pss, "MiB"),
        *calls,
    ]


def until_enrolled(pids: Sequence[int], began: float) -> float:
    """Return the seconds from a moment until every process is mergeable as a whole.

    Raises:
        TimeoutError: it takes too long.
    """
    left = list(pids)
    while left:
        left = [pid for pid in left if not kernel.merge_any(pid)]
        now = time.monotonic()
        if now - began > ENROLLED_SECONDS:
            raise TimeoutError(f"{len(left)} of {len(pids)} processes are not enrolled")
        time.sleep(0.02)
    return now - began


def _answered(what: str, answers: Sequence[Answer], *, target: bool) -> list[Figure]:
    late = [one.seconds for one in answers if not one.at_once]
    figures = [
        Figure(
            f"{what}: not mergeable at the first instruction",
            len(late),
            f"of {len(answers)}",
            0 if target else None,
        )
    ]
    if late:
        figures += [
            Figure("- of these, until enrolled: median", median(late), "s"),
            Figure("- of these, until enrolled: the slowest", max(late), "s", 1.0),
        ]
    return figures


def _answered_one(started: Started) -> float:
    return wait_for([started])[0].seconds


def wait_until_merging(node: PlayedNode) -> None:
    """Return when the agent obeys.

    Raises:
        TimeoutError: it does not.
    """
    deadline = time.monotonic() + ENROLLED_SECONDS
    while not any(
        one["type"] == "Ready" and one["status"] == "True"
        for one in node.status().get("conditions", ())
    ):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the agent is not ready: {node.says()}")
        time.sleep(0.1)


def versions_of(runtimes: Iterable[Sequence[str]]) -> list[str]:
    """Return which version of each runtime is measured."""
    lines = []
    for one in runtimes:
        done = subprocess.run([*one, "--version"], capture_output=True, text=True, check=True)
        lines.append(done.stdout.splitlines()[0])
    return lines
