"""The command line: one small cluster, a few verbs."""

import argparse
import contextlib
import fcntl
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from local_cluster import cluster, components, images, layout, prerequisites, virtual_nodes
from local_cluster.errors import LocalClusterError
from local_cluster.layout import NODE


def say(text: str) -> None:
    """Progress goes to standard error: standard output is for `env` and names."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Hold the lock of every command that changes the cluster."""
    prerequisites.require_root()
    layout.LOCK.parent.mkdir(parents=True, exist_ok=True)
    with layout.LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another command changes the local cluster now; waiting for it ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _up(arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    wanted = virtual_nodes.parse(arguments.nodes)
    with only_one():
        cluster.up(say, wanted)
    say(f"It took {components.duration(time.monotonic() - started)}. For your shell:")
    say('  eval "$(make -s cluster-env)"')
    return 0


def _down(arguments: argparse.Namespace) -> int:
    leaving = virtual_nodes.parse(arguments.nodes)
    with only_one():
        if leaving:
            cluster.remove(leaving, say)
        else:
            cluster.down(say)
    return 0


def _status(_: argparse.Namespace) -> int:
    prerequisites.require_root()
    for line in cluster.status():
        print(line)
    return 0 if cluster.is_up() else 1


def environment(path: str) -> str:
    """The lines a shell evaluates to talk to the cluster.

    Args:
        path: The PATH of that shell.
    """
    ours = str(layout.shell_path())
    folders = [ours, *(folder for folder in path.split(":") if folder and folder != ours)]
    # A proxy of the shell must not be asked for an address of this machine.
    direct = f"{layout.HOST_ADDRESS},127.0.0.1,localhost"
    return "\n".join(
        (
            f"export KUBECONFIG={shlex.quote(str(layout.admin_kubeconfig()))}",
            f"export PATH={shlex.quote(':'.join(folders))}",
            f'export NO_PROXY="{direct}${{NO_PROXY:+,$NO_PROXY}}"',
        )
    )


def _env(_: argparse.Namespace) -> int:
    if not layout.admin_kubeconfig().exists():
        raise LocalClusterError("There is no local cluster. Bring it up: make cluster-up")
    print(environment(os.environ.get("PATH", os.defpath)))
    return 0


def _load(arguments: argparse.Namespace) -> int:
    archive: Path = arguments.archive
    if not archive.is_file():
        raise LocalClusterError(f"There is no file {archive}")
    with only_one():
        if not cluster.exists() or not images.is_answering(NODE):
            raise LocalClusterError("The local cluster is not up. Bring it up: make cluster-up")
        for name in cluster.load(archive, say):
            print(name)
    return 0


def _build(arguments: argparse.Namespace) -> int:
    names = tuple(arguments.component) or components.CLUSTER
    unknown = [name for name in names if name not in components.COMPONENTS]
    if unknown:
        raise LocalClusterError(
            f"No component {', '.join(unknown)}. There are: {', '.join(components.COMPONENTS)}"
        )
    cluster.prepare(names, say)
    for name in names:
        print(components.folder(components.COMPONENTS[name]))
    return 0


def _needs(_: argparse.Namespace) -> int:
    prerequisites.provide(prerequisites.EVERYTHING, say)
    return 0


def _switch(arguments: argparse.Namespace) -> int:
    with only_one():
        cluster.switch(arguments.service, on=arguments.starts)
    return 0


def parser() -> argparse.ArgumentParser:
    """The verbs and their arguments."""
    top = argparse.ArgumentParser(prog="local-cluster", description=__doc__)
    verbs = top.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", help="bring the cluster up (building it first if need be)")
    up.add_argument("--nodes", default="", help="virtual nodes to add, such as vm:7")
    up.set_defaults(call=_up)
    down = verbs.add_parser("down", help="take it down and leave nothing but the cache")
    down.add_argument("--nodes", default="", help="take away these virtual nodes only")
    down.set_defaults(call=_down)
    for verb, call, text in (
        ("status", _status, "say what runs; exit code 0 if all of it does"),
        ("needs", _needs, "install what it takes to build and run it, where apt-get is there"),
        ("env", _env, "print KUBECONFIG and PATH for a shell to eval"),
    ):
        verbs.add_parser(verb, help=text).set_defaults(call=call)
    load = verbs.add_parser("load", help="load an OCI or docker image archive into every node")
    load.add_argument("archive", type=Path)
    load.set_defaults(call=_load)
    build = verbs.add_parser("build", help="build components and print their folders")
    build.add_argument("component", nargs="*", help="all the cluster needs if none is named")
    build.set_defaults(call=_build)
    for verb, starts, text in (
        ("stop", False, "stop one service, to see what an outage does"),
        ("start", True, "start a stopped service again"),
    ):
        one = verbs.add_parser(verb, help=text)
        one.add_argument("service")
        one.set_defaults(call=_switch, starts=starts)
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
        say("interrupted; the next `up` or `down` takes it from here")
        return 130
    return code
