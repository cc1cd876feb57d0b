"""Memory that is worth nothing to merge: random, and half of it in huge pages.

Arguments: mebibytes in all, seed of the data, which must be another for each process.
"""

from __future__ import annotations

import mmap
import random
import sys
from typing import TYPE_CHECKING, Final

from benchmarks.governor.programs import life

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def change(areas: Sequence[mmap.mmap], chance: random.Random) -> None:
    """Write to a few pages."""
    for area in areas:
        for _ in range(max(1, len(area) // mmap.PAGESIZE // CHANGED_SHARE)):
            at = chance.randrange(len(area) // _WORD) * _WORD
            area[at : at + _WORD] = chance.randbytes(_WORD)


def main() -> None:
    """Take memory and change a little of it until the end."""
    mebibytes, seed = int(sys.argv[1]), sys.argv[2]
    life.wait_for_enrolment()
    chance = random.Random(seed)
    areas = (huge(mebibytes // 2), life.area(mebibytes - mebibytes // 2))
    for area in areas:
        for at in range(0, len(area), _MIB):
            area[at : at + _MIB] = chance.randbytes(_MIB)
    life.say_ready()
    while not life.is_over(TICK):
        change(areas, chance)


if __name__ == "__main__":
    main()
