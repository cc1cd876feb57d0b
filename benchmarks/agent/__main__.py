"""Measure the agent on one node: `make bench-agent`."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.agent import phases
from benchmarks.agent.containers import PodTree, Runtime
from benchmarks.agent.node import PlayedNode
from benchmarks.agent.phases import Bench
from benchmarks.controller.report import table
from benchmarks.programs import built
from cluster.control_plane import ControlPlane
from kernel.containers import runtimes
from ksm_operator.kernel import find_memory_hierarchy
from support import kernel, machine

if TYPE_CHECKING:
    from collections.abc import Sequence

PARTS = ("new", "edit", "rest")
RUNTIMES = ("runc", "crun")


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """What is measured, and how much of it."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.agent",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=RUNTIMES)
    parser.add_argument("--containers", type=int, default=200, help="made one by one")
    parser.add_argument("--burst", type=int, default=30, help="made at once")
    parser.add_argument("--pods", type=int, default=110, help="of a full node")
    parser.add_argument("--processes", type=int, default=23, help="of each pod of a full node")
    parser.add_argument("--seconds", type=float, default=120.0, help="at rest")
    return parser.parse_args(arguments)


def run(chosen: argparse.Namespace) -> None:
    """Measure and print. The caller has the machine's KSM to itself."""
    programs = {name: one for name, one in runtimes().items() if name in chosen.runtimes}
    versions = ", ".join(phases.versions_of(programs.values()))
    print(f"Linux {platform.release()} {platform.machine()}, {os.cpu_count()} CPUs; {versions}\n")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        first = stack.enter_context(built("first", options=("-static", "-nostdlib"))) / "first"
        idle = stack.enter_context(built("idle")) / "idle"
        tree = PodTree(find_memory_hierarchy())
        stack.callback(tree.remove)
        stack.enter_context(kernel.as_booted())
        for name in ("plane", "node"):
            (folder / name).mkdir()
        plane = stack.enter_context(ControlPlane(folder / "plane"))
        node = stack.enter_context(PlayedNode(plane, folder / "node"))
        bench = Bench(node, tree, idle)
        node.start_agent()
        phases.wait_until_merging(node)
        if "new" in chosen.parts:
            for name, command in programs.items():
                runtime = Runtime(name, command, first, folder, tree)
                stack.callback(runtime.end)
                figures = [
                    *phases.one_by_one(bench, runtime, chosen.containers),
                    *phases.at_once(bench, runtime, chosen.burst),
                    *phases.kinds_of_containers(bench, runtime),
                ]
                print(table(f"New containers and processes, {runtime.name}", figures), flush=True)
        node.select("none")
        if "edit" in chosen.parts:
            figures = [
                *phases.edit(bench, 100, 1, 2.0),
                *phases.edit(bench, 100, chosen.processes, None),
            ]
            print(table("Edits (cgroups shaped like pods)", figures), flush=True)
        if "rest" in chosen.parts:
            figures = phases.at_rest(bench, chosen.pods, chosen.processes, chosen.seconds)
            print(table("At rest (cgroups shaped like pods)", figures), flush=True)


def main() -> int:
    """Measure and print."""
    chosen = options(sys.argv[1:])
    with machine.exclusive():
        run(chosen)
    return 0


if __name__ == "__main__":
    sys.exit(main())
