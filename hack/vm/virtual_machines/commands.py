"""The command line: run something on another kernel."""

import argparse
from collections.abc import Sequence

from local_cluster.commands import say
from local_cluster.errors import LocalClusterError
from virtual_machines import images, machine
from virtual_machines.machines import KERNELS, Kernel

DIED = 70
"""Exit code of `run` where the machine ended before its command did: EX_SOFTWARE, sysexits.h."""


def _kernels(names: Sequence[str]) -> list[Kernel]:
    return [KERNELS[name] for name in names] or list(KERNELS.values())


def _build(arguments: argparse.Namespace) -> int:
    for kernel in _kernels(arguments.kernel):
        images.ensure(kernel, say, newest=arguments.newest)
        print(kernel.name, images.release(kernel))
    return 0


def _run(arguments: argparse.Namespace) -> int:
    kernel = KERNELS[arguments.kernel]
    images.ensure(kernel, say)
    outcome = machine.run(
        kernel,
        arguments.command,
        lambda line: print(line, flush=True),
        say,
        cpus=arguments.cpus,
        seconds=arguments.timeout,
    )
    if outcome.code is None:
        say(f"error: {kernel.name}: {outcome.why}. The end of its console:\n{outcome.console}")
        return DIED
    return outcome.code


def parser() -> argparse.ArgumentParser:
    """The verbs and their arguments."""
    top = argparse.ArgumentParser(prog="vm", description=__doc__)
    verbs = top.add_subparsers(dest="verb", required=True)
    build = verbs.add_parser("build", help="fetch what is missing and print the kernels' versions")
    build.add_argument("kernel", nargs="*", choices=[*KERNELS, []], help="all if none is named")
    build.add_argument("--newest", action="store_true", help="fetch what Debian has today")
    build.set_defaults(call=_build)
    run = verbs.add_parser(
        "run", help="boot a kernel and run a command as root in a copy of this tree"
    )
    run.add_argument("--kernel", required=True, choices=KERNELS)
    run.add_argument("--cpus", type=int, default=2)
    run.add_argument("--timeout", type=float, default=machine.SECONDS, metavar="SECONDS")
    run.add_argument("command", nargs="+", metavar="COMMAND")
    run.set_defaults(call=_run)
    return top


def main(arguments: Sequence[str]) -> int:
    """Run one verb; an error is a sentence on standard error and exit code 1."""
    chosen = parser().parse_args(arguments)
    try:
        code: int = chosen.call(chosen)
    except LocalClusterError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    return code
