"""The command line of the demo; how it is set is in the environment, as `make` passes it."""

import argparse
import os
import sys
from collections.abc import Sequence

from demo import clean, show
from demo.setup import Settings
from demo.shell import DemoError, say

EPILOG = """
environment:
  CLUSTER=local     bring up the local cluster (the default)
  CLUSTER=current   use the cluster that kubectl points to; it needs the two images, so also
    IMAGE=...            name of the operator's image, as that cluster can pull it
    WORKLOAD_IMAGE=...   name of the demo's workload image, as that cluster can pull it
    REGISTRY=...         or: build both and push them there, for example registry.example.com/team
"""


def main(arguments: Sequence[str]) -> int:
    """Show it, or clean up; an error is a sentence on standard error and exit code 1."""
    parser = argparse.ArgumentParser(
        prog="hack/demo/run",
        description="See ksm-operator give memory back, on a real cluster with real pods.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("verb", nargs="?", choices=("show", "clean"), default="show")
    verb = parser.parse_args(arguments).verb
    try:
        settings = Settings.from_environment(os.environ)
        if verb == "clean":
            clean.run(settings)
        else:
            show.run(settings)
    except DemoError as error:
        print(f"\nerror: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        say("\nInterrupted. Start it again, or undo everything with: make demo-clean")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
