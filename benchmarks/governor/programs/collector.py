"""Stands in for a JVM where there is none: the memory of a copying garbage collector.

Two halves; what lives is copied from one to the other, the rest of that one is filled with new
objects, and the half that was left is zeroes until it is filled again. Arguments: mebibytes in all,
mebibytes of new objects in a second, seed of the data.
"""

from __future__ import annotations

import random
import sys
from typing import Final

from benchmarks.governor.programs import life

_BLOCK: Final = 64 << 10
TICK: Final = 0.1
LIVE_SHARE: Final = 2
"""One block in so many of a half lives on."""


def main() -> None:
    """Take memory and collect garbage until the end."""
    mebibytes, rate, seed = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    life.wait_for_enrolment()
    half = mebibytes // 2
    old, new = life.table(half, seed), life.area(half)
    blocks = len(old) // _BLOCK
    chance = random.Random(seed)
    filled = blocks
    life.say_ready()
    while not life.is_over(TICK):
        for _ in range(max(1, round(rate * (1 << 20) * TICK / _BLOCK))):
            if filled == blocks:
                survivors = sorted(chance.sample(range(blocks), blocks // LIVE_SHARE))
                for to, block in enumerate(survivors):
                    new[to * _BLOCK : (to + 1) * _BLOCK] = old[
                        block * _BLOCK : (block + 1) * _BLOCK
                    ]
                old[:] = bytes(len(old))
                old, new, filled = new, old, len(survivors)
            old[filled * _BLOCK : (filled + 1) * _BLOCK] = chance.randbytes(_BLOCK)
            filled += 1


if __name__ == "__main__":
    main()
