"""Takes the cluster of a benchmark down as soon as that one has ended, by whatever means.

Its standard input is a pipe from the benchmark: the kernel closes it, even after a SIGKILL.
"""

from __future__ import annotations

import sys

from benchmarks.controller import control_plane


def main() -> None:
    """Wait for the end of the process whose number is the argument."""
    sys.stdin.buffer.read()
    control_plane.release(sys.argv[1])


if __name__ == "__main__":
    main()
