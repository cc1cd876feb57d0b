"""Which sharing to break, and where, so that no cgroup that pays for others can run out of room.

A cgroup is charged for the merged pages that ksmd kept of its processes, for as long as anybody
maps them. When its processes write to their memory they are charged for new pages, and the old ones
stay charged while others map them. What its processes may come to need so is its demand:

    every mapping of a merged page by its processes, which becomes a page of its own
    + pages that are charged to it and that only others map: its processes had them once
    - pages that are charged to it and that its processes alone map: they go with the last of these

The demand of every level, from the container to the root, has to fit into the room of that level.
Where it does not, pages that it pays for are given back by the OTHERS that map them, by all of
them: the page is then freed, or left to those who pay for it. Nothing is ever broken in a process
of the cgroup that pays, because that would cost the room it lacks. Others are charged for what they
give back, so they must have room for it themselves; whether their own demand fits does not change
by that, as they need less by what they are charged for.

Pure: amounts in, what to break out.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ksm_operator.kernel.headroom import largest_within, with_margin, within
from ksm_operator.kernel.release_plan import Pages
from ksm_operator.kernel.shares import estimate

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from ksm_operator.kernel.procfs import Process
    from ksm_operator.kernel.release_plan import Member


@dataclass(frozen=True, slots=True)
class Break:
    """Pages to be given back by all who map them at the expense of a cgroup.

    Attributes:
        payer: the cgroup that is charged for the pages.
        sharers: who gives them back, and how many times each maps them; the same pages each, and
            none of them lives below `level`.
        size: bytes of pages, each counted once.
        level: the cgroup that lacks room: the payer or one above it.
    """

    payer: str
    sharers: tuple[tuple[Process, int], ...]
    size: int
    level: str


@dataclass(frozen=True, slots=True)
class Exposed:
    """A cgroup whose processes may run out of room, and nothing more can be broken for it.

    Attributes:
        level: its name.
        lacking_bytes: how much more room it would need.
        shared_bytes: how much of that is due to others that share its pages; if there is any, they
            lack room themselves, or must not be touched. The rest it would lack without merging.
    """

    level: str
    lacking_bytes: int
    shared_bytes: int


@dataclass(frozen=True, slots=True)
class GuardPlan:
    """What to do, and what cannot be helped.

    Attributes:
        breaks: in this order.
        exposed: cgroups that stay without enough room.
    """

    breaks: tuple[Break, ...]
    exposed: tuple[Exposed, ...]


def demands(members: Iterable[Member], pages: Iterable[Pages]) -> Counter[str]:
    """The demand of every level in bytes; see the module.

    Args:
        members: everybody whose cgroup is known.
        pages: everything that is merged.
    """
    total: Counter[str] = Counter()
    paths: dict[Process, tuple[str, ...]] = {}
    for member in members:
        paths[member.process] = member.path
        for name in member.path:
            total[name] += member.unshared_bytes
    for each in pages:
        _add(total, each, paths, each.size)
    return total


def demand_errors(
    members: Iterable[Member], pages: Iterable[Pages], *, every: int, page_size: int
) -> dict[str, int]:
    """By how much the demand of a level may be more than a sample says (95 %), in bytes.

    Args:
        members: everybody whose cgroup is known.
        pages: everything that is merged, as reckoned from a sample.
        every: one page of so many was looked at; 1 for all.
        page_size: bytes of a page.
    """
    if every == 1:
        return {}
    paths = {member.process: member.path for member in members}
    squares: Counter[str] = Counter()
    for each in pages:
        for name, weight in _weights(each, paths).items():
            squares[name] += weight * weight * (each.size // (every * page_size))
    return {name: estimate(1, total, every, page_size).error for name, total in squares.items()}


def plan_guard(
    members: Iterable[Member],
    pages: Iterable[Pages],
    rooms: Mapping[str, int | None],
    *,
    breakable: Collection[Process],
    guarded: Collection[str] | None = None,
    errors: Mapping[str, int] | None = None,
    page_size: int,
    margin_bytes: int,
) -> GuardPlan:
    """Find what to break, as little as possible, those pages first that fewest others map.

    Args:
        members: everybody whose cgroup is known.
        pages: everything that is merged.
        rooms: what each level can take; None, or no entry, where there is no limit.
        breakable: whose sharing may be broken.
        guarded: levels to look after; None for all.
        errors: by how much the demand of a level may be more than these pages say, see
            `demand_errors`; room is kept for that too.
        page_size: bytes of a page.
        margin_bytes: most that is to spare at a level, see `headroom.within`.
    """
    planner = _Planner(
        members, pages, rooms, errors=errors or {}, page_size=page_size, margin_bytes=margin_bytes
    )
    planner.breakable &= set(breakable)
    breaks: list[Break] = []
    exposed: list[Exposed] = []
    levels = [name for name in planner.levels() if guarded is None or name in guarded]
    for level in levels:
        breaks += planner.relieve(level)
    for level in levels:
        lacking = planner.lacking(level)
        if lacking > 0:
            exposed.append(Exposed(level, lacking, min(lacking, planner.shared(level))))
    return GuardPlan(tuple(breaks), tuple(exposed))


@dataclass(slots=True)
class _Kind:
    """Pages that are alike, as far as they are not given back yet."""

    pages: Pages
    left: int


class _Planner:
    """The state of a model of the cgroups while sharing is broken in it."""

    def __init__(
        self,
        members: Iterable[Member],
        pages: Iterable[Pages],
        rooms: Mapping[str, int | None],
        *,
        errors: Mapping[str, int],
        page_size: int,
        margin_bytes: int,
    ) -> None:
        everybody = list(members)
        self._kinds = [_Kind(each, each.size) for each in sorted(pages, key=_order)]
        self._demand = demands(everybody, (kind.pages for kind in self._kinds))
        self._paths = {member.process: member.path for member in everybody}
        self._rooms = {name: room for name, room in rooms.items() if room is not None}
        # Not what is freed on the way: which pages go first, of those that are alike to the ones
        # who give them back, nobody can tell. The next look finds it.
        self._left_to_give = dict(self._rooms)
        self._errors = errors
        self.breakable = set(self._paths)
        self._page_size = page_size
        self._margin_bytes = margin_bytes
        self._charged_in: dict[str, list[_Kind]] = {}
        for kind in self._kinds:
            self._file(kind)

    def _file(self, kind: _Kind) -> None:
        for name in kind.pages.payer:
            self._charged_in.setdefault(name, []).append(kind)

    def levels(self) -> list[str]:
        """Those with a limit, the deepest first."""
        depths: dict[str, int] = {}
        for path in (*self._paths.values(), *(kind.pages.payer for kind in self._kinds)):
            depths |= {name: depth for depth, name in enumerate(reversed(path))}
        return sorted(depths.keys() & self._rooms.keys(), key=lambda name: (-depths[name], name))

    def lacking(self, level: str) -> int:
        """How much more room a level needs; 0 if it has enough."""
        demand, room = self._demand[level], self._rooms[level]
        if demand > 0:
            demand += self._errors.get(level, 0)
        if within(demand, room, self._margin_bytes):
            return 0
        return with_margin(demand, self._margin_bytes) - room

    def shared(self, level: str) -> int:
        """Bytes of pages that a level pays for and that others map."""
        return sum(
            kind.left
            for kind in self._charged_in.get(level, ())
            if kind.pages.is_shared_elsewhere or self._outside(kind.pages, level)
        )

    def relieve(self, level: str) -> list[Break]:
        """Break what others map at the expense of a level, until it has room enough."""
        found: list[Break] = []
        if self.lacking(level) <= 0:
            return found
        kinds = [
            kind for kind in self._charged_in.get(level, ()) if not kind.pages.is_shared_elsewhere
        ]
        for kind in sorted(kinds, key=lambda kind: self._cost(kind.pages, level)):
            lacking = self.lacking(level)
            if lacking <= 0:
                break
            outside = self._outside(kind.pages, level)
            if not outside or not self.breakable.issuperset(process for process, _ in outside):
                continue
            size = self._fitting(min(kind.left, self._rounded_up(lacking)), outside)
            if size > 0:
                self._take(kind, outside, size)
                found.append(Break(kind.pages.payer[0], tuple(outside), size, level))
        return found

    def _cost(self, pages: Pages, level: str) -> tuple[int, bool]:
        """How many others have to give each page back, and whether it is freed when they have."""
        outside = len(self._outside(pages, level))
        return outside, outside < len(pages.mappers)

    def _outside(self, pages: Pages, level: str) -> list[tuple[Process, int]]:
        return [
            (process, times)
            for process, times in pages.mappers
            if level not in self._paths.get(process, ())
        ]

    def _rounded_up(self, size: int) -> int:
        return -(-size // self._page_size) * self._page_size

    def _fitting(self, size: int, sharers: Sequence[tuple[Process, int]]) -> int:
        """How much of so many bytes of pages all of these can take as their own."""
        copies: Counter[str] = Counter()
        for process, times in sharers:
            for name in self._paths[process]:
                copies[name] += times
        for name, times in copies.items():
            if name in self._left_to_give:
                room = largest_within(self._left_to_give[name], self._margin_bytes)
                size = min(size, room // times)
        return max(0, size // self._page_size * self._page_size)

    def _take(self, kind: _Kind, sharers: Sequence[tuple[Process, int]], size: int) -> None:
        """Do it in the model: the sharers have pages of their own, and fewer are shared."""
        before = kind.pages
        kept = tuple(one for one in before.mappers if one not in sharers)
        kind.left -= size
        _add(self._demand, before, self._paths, -size)
        if kept:
            after = _Kind(Pages(before.payer, kept, is_shared_elsewhere=False, size=size), size)
            _add(self._demand, after.pages, self._paths, size)
            self._file(after)
        else:
            self._free(before, size)
        for process, times in sharers:
            for name in self._paths[process]:
                if name in self._rooms:
                    self._rooms[name] -= times * size
                    self._left_to_give[name] -= times * size

    def _free(self, pages: Pages, size: int) -> None:
        inside = {name for process, _ in pages.mappers for name in self._paths[process]}
        for name in pages.payer:
            if name not in inside:
                self._demand[name] += size  # it had them once, and may want them again
            if name in self._rooms:
                self._rooms[name] += size


def _order(pages: Pages) -> tuple[tuple[str, ...], tuple[tuple[Process, int], ...], bool]:
    return pages.payer, pages.mappers, pages.is_shared_elsewhere


def _add(
    total: Counter[str], pages: Pages, paths: Mapping[Process, tuple[str, ...]], size: int
) -> None:
    """Add to each level's demand what so many bytes of these pages mean for it."""
    for name, weight in _weights(pages, paths).items():
        total[name] += weight * size


def _weights(pages: Pages, paths: Mapping[Process, tuple[str, ...]]) -> Counter[str]:
    """What one of these pages adds to each level's demand, in pages."""
    weights: Counter[str] = Counter()
    mappers: Counter[str] = Counter()
    for process, times in pages.mappers:
        for name in paths.get(process, ()):
            weights[name] += times
            mappers[name] += 1
    for name in pages.payer:
        if not mappers[name]:
            weights[name] += 1
        elif mappers[name] == len(pages.mappers) and not pages.is_shared_elsewhere:
            weights[name] -= 1
    return weights
