"""What the loads are made of: which programs start when, and with how much memory. Pure.

The same arguments give the same load, whatever the algorithm.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

WORKERS: Final = 8
SERVERS: Final = 3
WORKERS_OF_SERVER: Final = 4
REQUESTS: Final = 20
"""A second, of each server."""
HEAPS: Final = 3
HEAP_SHARE: Final = 0.5
"""Of a heap that is data; the rest is room for garbage."""
REFILL_SECONDS: Final = 15
"""In so many seconds as much garbage is made as the heap is large."""
SLOTS: Final = 6
CHILDREN: Final = 1
LIFE_SECONDS: Final = (10.0, 30.0)
"""Shortest and longest life of a container that comes and goes."""
PARTS: Final = 5
"""Of the mix."""


@dataclass(frozen=True, slots=True)
class Container:
    """One that is started, enrolled, and perhaps ended.

    Attributes:
        program: module of `programs`, or `java` for its Heap.
        arguments: of it.
        starts: seconds since the load began.
        ends: the same; None for the end of the load.
        hash_seed: PYTHONHASHSEED: as in real life another for each, but known.
        huge: whether it asks for huge pages.
    """

    program: str
    arguments: tuple[str, ...]
    starts: float = 0.0
    ends: float | None = None
    hash_seed: int = 0
    huge: bool = False


@dataclass(frozen=True, slots=True)
class Scale:
    """How large, how long, and which.

    Attributes:
        mebibytes: of all its programs together, roughly.
        seconds: of the load.
        seed: of everything random.
        java: whether there is a JVM.
    """

    mebibytes: int
    seconds: float
    seed: int
    java: bool


@dataclass(frozen=True, slots=True)
class Load:
    """A kind of load.

    Attributes:
        title: what it is, for people.
        containers: which programs it starts.
        least_ratio: by how much ours shall be better than each of the others.
        profitable: whether there is anything to save.
        times: as long as the others it lasts, where what it is about comes seldom.
    """

    title: str
    containers: Callable[[Scale], tuple[Container, ...]]
    least_ratio: float = 1.0
    profitable: bool = True
    times: int = 1


def static(scale: Scale) -> tuple[Container, ...]:
    """Return workers that load the same modules and hold the same data."""
    each = max(4, scale.mebibytes // WORKERS)
    arguments = (str(each), "0", f"data {scale.seed}")
    return _numbered([Container("worker", arguments)] * WORKERS, scale)


def web(scale: Scale) -> tuple[Container, ...]:
    """Return web servers that load data, fork, and have a cache in each worker."""
    part = max(2, scale.mebibytes // (SERVERS * (1 + WORKERS_OF_SERVER)))
    numbers = (part, part, WORKERS_OF_SERVER, REQUESTS)
    arguments = (*(str(number) for number in numbers), f"web {scale.seed}")
    return _numbered([Container("web_server", arguments)] * SERVERS, scale)


def heap(scale: Scale) -> tuple[Container, ...]:
    """Return programs whose memory a garbage collector moves about."""
    size = max(32, scale.mebibytes // HEAPS)
    garbage = max(1, size // REFILL_SECONDS)
    if scale.java:
        live = round(size * HEAP_SHARE)
        one = Container("java", (f"{size}", f"{live}", f"{garbage}", f"{scale.seed}"))
    else:
        one = Container("collector", (f"{size}", f"{garbage}", f"heap {scale.seed}"))
    return _numbered([one] * HEAPS, scale)


def churn(scale: Scale) -> tuple[Container, ...]:
    """Return containers of some processes that end, and others that come in their place."""
    chance = random.Random(f"churn {scale.seed}")
    each = max(4, scale.mebibytes // (SLOTS * (1 + CHILDREN)))
    arguments = (str(each), str(CHILDREN), f"data {scale.seed}")
    made = []
    for slot in range(SLOTS):
        starts = slot * LIFE_SECONDS[0] / SLOTS
        while starts < scale.seconds:
            ends = starts + chance.uniform(*LIFE_SECONDS)
            last = ends >= scale.seconds
            made.append(Container("worker", arguments, starts, None if last else ends))
            starts = ends
    return _numbered(sorted(made, key=lambda one: one.starts), scale)


def noise(scale: Scale) -> tuple[Container, ...]:
    """Return programs with nothing to merge, one in huge pages and one without."""
    each = max(8, scale.mebibytes // 2)
    made = [
        Container("noise", (f"{each}", f"noise {scale.seed} {pages}", pages), huge=pages == "huge")
        for pages in ("huge", "small")
    ]
    return _numbered(made, scale)


def mix(scale: Scale) -> tuple[Container, ...]:
    """Return all of them, each with its part of the memory."""
    part = replace(scale, mebibytes=scale.mebibytes // PARTS)
    made = [one for load in (static, web, heap, churn, noise) for one in load(part)]
    return _numbered(sorted(made, key=lambda one: one.starts), scale)


def _numbered(made: list[Container], scale: Scale) -> tuple[Container, ...]:
    return tuple(
        replace(one, hash_seed=scale.seed + number) for number, one in enumerate(made, start=1)
    )


LOADS: Final = {
    "static": Load("identical workers", static),
    "web": Load("web servers that fork, under load", web),
    # A full collection each 50 seconds or so.
    "heap": Load("garbage-collected heaps", heap, times=2),
    "churn": Load("containers that come and go", churn),
    "noise": Load("random memory, half of it in huge pages", noise, profitable=False),
    # The first minute is mostly start; then containers come and go beside those that stay.
    "mix": Load("all of these together", mix, least_ratio=1.5, times=3),
}
"""By the name that `--loads` takes."""


def title(name: str, *, java: bool) -> str:
    """Return what a load is, with what stands in for a JVM where there is none."""
    if name not in ("heap", "mix"):
        return LOADS[name].title
    what = "JVMs" if java else "no java found, so a copying collector in Python stands in"
    return f"{LOADS[name].title} ({what})"
