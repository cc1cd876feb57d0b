"""Entry point of `ksm-node` and `python -m ksm_operator.node`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ksm_operator.kernel import AgentLock, KernelError
from ksm_operator.kernel.lock import AGENT_LOCK
from ksm_operator.node.change import enrol_all, release_together
from ksm_operator.node.duplicates import add_parser as add_duplicates
from ksm_operator.node.duplicates import run_duplicates
from ksm_operator.node.explain import add_parser as add_explain
from ksm_operator.node.explain import run_explain
from ksm_operator.node.huge_pages import add_argument as add_huge_pages
from ksm_operator.node.relieve import add_parser as add_relieve
from ksm_operator.node.relieve import relieve_cgroups
from ksm_operator.node.relieve import render as render_relief
from ksm_operator.node.selection import add_arguments
from ksm_operator.node.status import read_status, render_status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ksm_operator.node.change import Outcome

RECORD: Final = "ksm-node.json"
"""Beside the lock: which ranges of which processes were marked."""

EXIT_OK: Final = 0
EXIT_INCOMPLETE: Final = 1
EXIT_REFUSED: Final = 2


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(
        prog="ksm-node",
        description="Kernel samepage merging on this node, by hand. Needs root.",
        epilog="Exit status: 0 done, 1 some process or cgroup was left as it was, 2 refused.",
    )
    root.add_argument(
        "-o",
        "--output",
        choices=("text", "json"),
        default="text",
        help="for people (default) or for programs",
    )
    root.add_argument(
        "--lock",
        type=Path,
        default=AGENT_LOCK,
        metavar="FILE",
        help=f"lock shared with the agent (default {AGENT_LOCK})",
    )
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("status", help="kernel, ksmd, who is mergeable, what that saves")
    add_duplicates(commands)
    enrol = commands.add_parser("enrol", help="switch merging on in running processes")
    release = commands.add_parser("release", help="give processes their own pages back")
    for command in (enrol, release):
        add_arguments(command)
    add_huge_pages(enrol)
    add_explain(commands)
    add_relieve(commands)
    return root


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    root = parser()
    options = root.parse_args(arguments)
    if options.command in ("enrol", "release", "explain") and not (options.pids or options.cgroup):
        root.error(f"{options.command}: name PIDs or --cgroup PATH")
    if options.command == "relieve" and not options.cgroup:
        root.error("relieve: name a --cgroup PATH")
    if os.geteuid() != 0:
        return _refuse("root is needed: other users' processes and /sys cannot be read. Use sudo.")
    try:
        if options.command == "status":
            status = read_status()
            print(
                json.dumps(status, indent=2) if options.output == "json" else render_status(status)
            )
            return EXIT_OK
        if options.command == "duplicates":
            print(run_duplicates(options))
            return EXIT_OK
        if options.command == "explain":
            print(run_explain(options))
            return EXIT_OK
        return _change(options)
    except KernelError as error:
        return _refuse(str(error))


def _change(options: argparse.Namespace) -> int:
    lock = AgentLock(options.lock)
    if not lock.acquire():
        return _refuse(
            f"an agent manages this node (it holds {options.lock}): it would undo what you do by "
            "hand. Change the KSMPolicy, or take the node out of it first."
        )
    try:
        record = options.lock.with_name(RECORD)
        if options.command == "relieve":
            report = relieve_cgroups(options.cgroup, record)
            print(render_relief(report, options.output))
            return EXIT_INCOMPLETE if report["exposed"] else EXIT_OK
        if options.command == "enrol":
            outcomes = enrol_all(options.pids, options.cgroup, record, options.huge_pages)
        else:
            outcomes = release_together(options.pids, options.cgroup, record)
    finally:
        lock.release()
    _print(outcomes, options.output)
    return EXIT_OK if all(outcome.ok for outcome in outcomes) else EXIT_INCOMPLETE


def _print(outcomes: Sequence[Outcome], form: str) -> None:
    if form == "json":
        print(json.dumps([outcome.to_dict() for outcome in outcomes], indent=2))
        return
    for outcome in outcomes:
        print(f"{outcome.pid}: {outcome.text}")


def _refuse(text: str) -> int:
    print(f"ksm-node: {text}", file=sys.stderr)
    return EXIT_REFUSED


if __name__ == "__main__":
    sys.exit(main())
