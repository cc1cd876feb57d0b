"""A program that does nothing but merge, and says at its end whether it still does."""

import sys
from functools import partial
from typing import Final

from kernel.population.kinds import STOP, Kind

_PROGRAM: Final = """
import ctypes, pathlib, sys, time
prctl = ctypes.CDLL(None).prctl
if sys.argv[2] == "asks":
    prctl(67, 1, 0, 0, 0)
print("ready", flush=True)
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.05)
print("merges", prctl(68, 0, 0, 0, 0))
"""


def quiet(*, asks: bool, merges_at_the_end: bool) -> Kind:
    """A kind of one program.

    Args:
        asks: it asks for merging by itself at its start.
        merges_at_the_end: whether it has to when it ends.
    """
    command = (sys.executable, "-c", _PROGRAM, STOP, "asks" if asks else "does not ask")
    return Kind("quiet", (command,), partial(_judge, f"merges {int(merges_at_the_end)}"))


def _judge(expected: str, _: tuple[str, ...], lines: list[str], status: int) -> str | None:
    return None if (status, lines[-1:]) == (0, [expected]) else f"status {status}: {lines}"
