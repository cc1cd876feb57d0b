"""Build a container image without a Docker engine and without a registry.

The base is bootstrapped from Debian packages once per user, the Dockerfile is built on it by
buildah, and the result is kept as an OCI archive and loaded into the local cluster if it is up.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "vm"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "local-cluster"))

from builder import BASE, Build

from local_cluster import cluster, images, prerequisites
from local_cluster.commands import only_one, say
from local_cluster.components import duration
from local_cluster.errors import LocalClusterError
from local_cluster.layout import NODE

REPOSITORY = Path(__file__).resolve().parents[2]
OPERATOR = "localhost/ksm-operator:dev"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="image", description=__doc__)
    parser.add_argument("--name", default=OPERATOR, help=f"full name, default {OPERATOR}")
    parser.add_argument("--context", type=Path, default=REPOSITORY, help="folder to build from")
    parser.add_argument("--dockerfile", type=Path, help="default: Dockerfile in the context")
    parser.add_argument(
        "--base", help=f"public base image to pull, instead of the bootstrapped {BASE}"
    )
    parser.add_argument("--no-load", action="store_true", help="leave the local cluster alone")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Build, keep and load one image; prints the archive's path."""
    chosen = parse(arguments)
    started = time.monotonic()
    try:
        prerequisites.require_root()
        build = Build(
            name=chosen.name,
            context=chosen.context.resolve(),
            dockerfile=chosen.dockerfile or chosen.context / "Dockerfile",
            base=chosen.base,
        )
        with only_one():
            archive = build.run(say)
            if not chosen.no_load and cluster.exists() and images.is_answering(NODE):
                cluster.load(archive, say)
                say(f"{chosen.name} is in the local cluster")
    except LocalClusterError as error:
        say(f"error: {error}")
        return 1
    say(f"{chosen.name} took {duration(time.monotonic() - started)}")
    print(archive)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
