"""Measure what each way to tune ksmd keeps free, and at what cost: `make bench-governor`."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.governor import breaks, program, report
from benchmarks.governor.algorithms import ALGORITHMS, OURS
from benchmarks.governor.loads import LOADS, Scale, title
from benchmarks.governor.node import Node
from benchmarks.governor.outcome import Outcome
from benchmarks.governor.plot import Panel, svg
from benchmarks.governor.trial import play
from ksm_operator.kernel import Helper
from support import kernel, machine

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PLOTS: Final = Path(__file__).parents[2] / "docs/plots"
GIB: Final = 1 << 30


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """What is measured, for how long, and with how much memory."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.governor",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    usual = [name for name, one in ALGORITHMS.items() if one.usual]
    parser.add_argument(
        "--seconds",
        type=float,
        default=60.0,
        help="of each load and algorithm; "
        + ", ".join(
            f"{one.times} times as long for {name}" for name, one in LOADS.items() if one.times > 1
        ),
    )
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=list(LOADS), metavar="LOAD")
    parser.add_argument(
        "--algorithms", nargs="+", choices=ALGORITHMS, default=usual, metavar="ALGORITHM"
    )
    parser.add_argument("--seed", type=int, default=1, help="of all contents, lives and requests")
    parser.add_argument("--size", type=int, default=256, help="MiB of a load, roughly")
    parser.add_argument("--plots", type=Path, default=PLOTS, help="folder for the plots")
    return parser.parse_args(arguments)


def run(chosen: argparse.Namespace) -> None:
    """Measure and print. The caller has the machine to itself."""
    with contextlib.ExitStack() as stack:
        helper = stack.enter_context(contextlib.closing(Helper()))
        node, java = Node(helper), program.has_java()
        # However it ends: ksmd counts the pages of programs that are gone until it looks.
        stack.callback(node.clean)
        classes = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if java:
            program.compile_java(classes)
        node.clean()
        cost = breaks.measure(node, classes)
        print(
            f"Linux {platform.release()} {platform.machine()}, {os.cpu_count()} CPUs; "
            f"{chosen.size} MiB, {chosen.seconds:g} s, seed {chosen.seed}; "
            f"one break of a merged page costs {cost * 1e6:.2f} us of CPU time.\n",
            flush=True,
        )
        scale = Scale(chosen.size, chosen.seconds, chosen.seed, java)
        done = list[report.Played]()
        for name in chosen.loads:
            load, outcomes = LOADS[name], dict[str, Outcome]()
            seconds = load.times * scale.seconds
            cast = load.containers(replace(scale, seconds=seconds))
            for each in chosen.algorithms:
                algorithm = ALGORITHMS[each]
                progress(f"{load.title}: {algorithm.title} ...")
                measured = play(
                    algorithm,
                    cast,
                    seconds,
                    node=node,
                    helper=helper,
                    classes=classes,
                )
                outcomes[algorithm.title] = replace(measured, cost=cost)
            played = report.Played(
                f"{title(name, java=java)}, {seconds:g} s",
                outcomes,
                ALGORITHMS[OURS].title,
                load.least_ratio,
                load.profitable,
            )
            done.append(played)
            print(told(played), flush=True)
            chosen.plots.mkdir(parents=True, exist_ok=True)
            plot = chosen.plots / f"governor-{name}.svg"
            plot.write_text(picture(played.title, outcomes), encoding="utf-8")
        print("### Ours against each of the others\n")
        print("How many times as much ours has of: the net saving (byte-seconds) for a CPU second;")
        print("the net saving; the net saving in the second half, when the start is over.\n")
        print(report.places(done))
        print("\n".join(report.targets(done)))


def told(played: report.Played) -> str:
    """What is printed of a load."""
    steering = ", ".join(f"{name} {one.steering:.2f} s" for name, one in played.outcomes.items())
    return (
        f"{report.table(played)}\n"
        f"Load average of the last minute: {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs. "
        f"CPU of the algorithms' own programs, not counted: {steering}.\n"
    )


def picture(heading: str, outcomes: Mapping[str, Outcome]) -> str:
    """Return the plot of a load: what is kept free, and what that has cost so far."""
    saved = {
        name: [(at.at, at.saved / GIB) for at in one.samples] for name, one in outcomes.items()
    }
    cpu = {
        name: [(at.at, at.ksmd + one.cost * at.breaks) for at in one.samples]
        for name, one in outcomes.items()
    }
    panels = (Panel("GiB saved", saved), Panel("CPU s of ksmd and copy-on-write so far", cpu))
    return svg(f"ksmd with {heading}", panels, ALGORITHMS[OURS].title)


def progress(text: str) -> None:
    """Say how far it is, on standard error."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main() -> None:
    """Wait for the machine, measure, print, and leave everything as it was."""
    chosen = options(sys.argv[1:])
    if not kernel.is_root():
        sys.exit("error: run it as root: it changes ksmd's files and enrols programs")
    with machine.exclusive(), kernel.as_booted():
        run(chosen)


if __name__ == "__main__":
    main()
