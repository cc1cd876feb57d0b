"""Asks a web server on 127.0.0.1 at a steady rate, until its standard input ends.

Argument: requests a second. The port is the first line of standard input.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import sys
import time

from benchmarks.governor.programs import life


def main() -> None:
    """Ask, one request after the other."""
    pause = 1 / int(sys.argv[1])
    line = sys.stdin.readline()
    if not line:
        return
    due = time.monotonic()
    for number in itertools.count():
        due += pause
        if life.is_over(max(0.0, due - time.monotonic())):
            return
        # A server on its way out has nothing to say.
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", int(line), timeout=10)
            try:
                connection.request("GET", f"/{number}")
                connection.getresponse().read()
            finally:
                connection.close()


if __name__ == "__main__":
    main()
