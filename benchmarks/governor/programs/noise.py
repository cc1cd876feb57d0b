"""Memory that is worth nothing to merge, because it is random.

Arguments: mebibytes, seed of the data, which must be another for each process, and `huge` or
`small` for the pages.
"""

from __future__ import annotations

import mmap
import random
import sys
from typing import Final

from benchmarks.governor.programs import life

_MIB: Final = 1 << 20
_HUGE_MIB: Final = 2
_WORD: Final = 8
TICK: Final = 0.1
CHANGED_SHARE: Final = 1000
"""One page in so many is written to in each moment of work: one in a hundred in a second."""


def huge(mebibytes: int) -> mmap.mmap:
    """Return private memory that asks for huge pages."""
    size = max(_HUGE_MIB, mebibytes // _HUGE_MIB * _HUGE_MIB) * _MIB
    made = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    made.madvise(mmap.MADV_HUGEPAGE)
    return made


def change(area: mmap.mmap, chance: random.Random) -> None:
    """Write to a few pages."""
    for _ in range(max(1, len(area) // mmap.PAGESIZE // CHANGED_SHARE)):
        at = chance.randrange(len(area) // _WORD) * _WORD
        area[at : at + _WORD] = chance.randbytes(_WORD)


def main() -> None:
    """Take memory and change a little of it until the end."""
    mebibytes, seed = int(sys.argv[1]), sys.argv[2]
    held = huge if sys.argv[3] == "huge" else life.area
    life.wait_for_enrolment()
    chance = random.Random(seed)
    area = held(mebibytes)
    for at in range(0, len(area), _MIB):
        area[at : at + _MIB] = chance.randbytes(_MIB)
    life.say_ready()
    while not life.is_over(TICK):
        change(area, chance)


if __name__ == "__main__":
    main()
