"""A Python program with data: much is the same in every other one, some is the interpreter's own.

Arguments: mebibytes for each process, children to fork, seed of the data.
"""

from __future__ import annotations

import importlib
import random
import sys
from typing import Final

from benchmarks.governor.programs import life

MODULES: Final = (
    *("asyncio", "decimal", "email.message", "http.client", "json", "logging.config"),
    *("sqlite3", "statistics", "unittest.mock", "urllib.request", "xml.etree.ElementTree"),
)
OBJECTS_SHARE: Final = 4
"""One byte in so many is in objects, the others in a table."""
TICK: Final = 0.1
"""Seconds between two moments of work."""
LOOKS: Final = 50
"""Records that are replaced in each."""


def main() -> None:
    """Take memory and work with it until the end."""
    mebibytes, children, seed = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    life.wait_for_enrolment()
    for name in MODULES:
        importlib.import_module(name)
    child = False
    for _ in range(children):
        child = life.fork()
        if child:
            break
    objects = life.records(mebibytes // OBJECTS_SHARE)
    held = life.table(mebibytes - mebibytes // OBJECTS_SHARE, seed)
    if not child:
        life.say_ready()
    chance = random.Random(seed)
    # A child's standard input is its parent's, and ends for both.
    while not life.is_over(TICK):
        for _ in range(LOOKS):
            number = chance.randrange(len(objects)) if objects else 0
            byte = held[chance.randrange(len(held))]
            if objects:
                objects[number] = {**objects[number], "seen": byte}


if __name__ == "__main__":
    main()
