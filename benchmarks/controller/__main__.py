"""Measure the controller on a cluster of thousands of nodes: `make bench-controller`."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from typing import TYPE_CHECKING

from benchmarks import figures
from benchmarks.controller import agents, chart, decisions, observer, phases, population, report
from benchmarks.controller.audit import Audit
from benchmarks.controller.churn import Churn
from benchmarks.controller.client import Client
from benchmarks.controller.control_plane import control_plane
from benchmarks.controller.kubelets import Kubelets
from benchmarks.controller.observer import Observer
from benchmarks.controller.phases import Stage
from benchmarks.controller.population import Scale
from benchmarks.controller.process import Controller
from benchmarks.controller.report import Figure
from support import machine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FULL_PLAN_MS = 1000.0


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """What is measured, and for how long."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.controller",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--namespaces", type=int, default=2000)
    parser.add_argument("--policies", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=6.0, help="at rest, and again with churn")
    parser.add_argument("--churn", type=float, default=5.0, help="nodes replaced, %% an hour")
    parser.add_argument(
        "--manager-requests",
        type=int,
        default=20,
        help="requests a second of each controller of Kubernetes (20 is its own default)",
    )
    return parser.parse_args(arguments)


def run(chosen: argparse.Namespace) -> None:
    """Measure and print. The caller has the machine to itself."""
    began = time.monotonic()
    print(
        f"Linux {platform.release()} {platform.machine()}, {os.cpu_count()} CPUs; "
        f"{chosen.nodes:,} nodes, {chosen.namespaces:,} namespaces, {chosen.policies} policies\n"
    )
    with control_plane(chosen.manager_requests):
        for text in _parts(chosen):
            print(text, flush=True)
    progress(f"Done after {(time.monotonic() - began) / 60:.1f} min")


def _parts(chosen: argparse.Namespace) -> Iterator[str]:
    scale = Scale(chosen.nodes, chosen.namespaces, chosen.policies)
    client, alive, controller = Client(), Kubelets(Client()), Controller()
    audit = Audit()
    churn = Churn(client, scale, alive)
    stage = Stage(scale, controller, audit, Observer(client), churn, chosen.manager_requests)
    chart.install(client)
    progress("Making nodes and namespaces ...")
    began = time.monotonic()
    population.create(client, scale)
    progress(f"made in {time.monotonic() - began:.0f} s")
    alive.start(population.node_name(number) for number in range(scale.nodes))
    agents.start()
    started = Figure("no policy there yet", controller.start(), "s")
    policies = [population.policy(number) for number in range(scale.policies)]
    progress("First apply of a policy for every node ...")
    title = f"First `kubectl apply` of a policy for all {scale.nodes:,} nodes"
    yield phases.applied(stage, [population.fleet_policy()], title, apart=True)
    progress("Deleting it ...")
    yield phases.deleted(stage, [population.FLEET], "The same policy deleted")
    progress(f"Applying {scale.policies} policies ...")
    title = f"`kubectl apply` of {scale.policies} policies for {scale.nodes:,} nodes"
    yield phases.applied(stage, policies, title, apart=False)
    progress("Starting the controller again ...")
    stopped = Figure("SIGTERM to its end", controller.stop(), "s")
    again = Figure("everything there", controller.start(), "s")
    memory = Figure("memory then, resident", controller.usage().rss, "MiB")
    yield report.table("Start of the controller until ready", [started, stopped, again, memory])
    yield figures.table("Decisions over the real objects", decisions.measure(client))
    progress("Edit ...")
    yield phases.edited(stage)
    progress(f"At rest for {chosen.minutes:g} min ...")
    yield phases.quiet(stage, chosen.minutes, 0.0)
    progress(f"Churn for {chosen.minutes:g} min ...")
    yield phases.quiet(stage, chosen.minutes, chosen.churn)
    progress("API server restarted ...")
    yield phases.outage(stage)
    yield _objects(client)


def _objects(client: Client) -> str:
    rows = [
        figures.Row(name, [len(one) / 1024 for one in client.list(path)[0]], "KiB")
        for name, path in (
            ("Node", population.NODES),
            ("KSMNode", observer.KSM_NODES),
            ("KSMPolicy", observer.POLICIES),
            ("Namespace", population.NAMESPACES),
        )
    ]
    return figures.table("Size of the objects, as JSON", rows)


def progress(text: str) -> None:
    """Say how far it is, on standard error."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> None:
    """Wait for the machine, measure and print."""
    chosen = options(sys.argv[1:])
    with machine.exclusive():
        run(chosen)


if __name__ == "__main__":
    main()
