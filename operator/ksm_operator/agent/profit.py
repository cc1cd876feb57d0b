"""Withdraws containers whose merging does not pay for what it costs, and tries them again later.

What a container gains is memory that it gives back. What it costs is ksmd's CPU, copies of merged
pages that were written to, and the kernel's records of its pages. CPU and copies are told for the
node only (schedstat, cow_ksm of /proc/vmstat), so they are shared out by records: wrong by as much
as a container's pages take more or less of ksmd's time than the average page, which is small next
to what separates one that shares from one that does not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

FAIR_SECONDS: Final = 900.0
"""A container has so long to pay, and to pay again: the time between two large collections of
garbage, and longer than any start."""
FAIR_SCANS: Final = 4
"""And so many ends of scans: a page merges in the second whole one at the earliest, and where there
is much memory one may take longer than the fair time."""
FIRST_PAUSE: Final = 3600.0
LONGEST_PAUSE: Final = 86_400.0
"""Seconds until one that did not pay is tried again: twice as long each time."""
LONGEST_GAP: Final = 750.0
"""Seconds between two entries after which all accounts begin anew: ksmd stood still meanwhile, and
what cannot merge is not to be charged for it."""
LEAST_RECORDS: Final = 256
"""Of a MiB: whoever has less costs nothing to speak of."""
RECORD_BYTES: Final = 64
"""Of the kernel's memory for a page that ksmd watches (struct ksm_rmap_item, mm/ksm.c)."""
COPY_SECONDS: Final = 5e-6
"""CPU of a page fault that copies a merged page."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What ksmd has of a container now.

    Attributes:
        records: pages that it watches (rmap items).
        merged: of them, mappings of merged pages.
    """

    records: int
    merged: int


@dataclass(frozen=True, slots=True)
class Spent:
    """What was spent on the node since boot.

    Attributes:
        cpu: CPU seconds of ksmd.
        breaks: merged pages that were written to.
        full_scans: scans of all memory that have ended.
        kept_share: of all mappings of merged pages, those that stand for a page that is kept; the
            others were given back.
        price: byte-seconds that a CPU second is worth now, as the governor reckons.
    """

    cpu: float
    breaks: int
    full_scans: int
    kept_share: float
    price: float


@dataclass(frozen=True, slots=True)
class Account:
    """What a container gained and cost since a moment, both in bytes times seconds.

    Attributes:
        since: seconds on a clock that only moves forward.
        scans: that had ended by then.
        gained: memory given back.
        cost: the kernel's records, and CPU at its price.
    """

    since: float
    scans: int
    gained: float = 0.0
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """One that did not pay.

    Attributes:
        until: when it is tried again.
        pause: seconds that this is from its withdrawal.
    """

    until: float
    pause: float


def book(
    account: Account,
    now: Holding,
    *,
    seconds: float,
    before: Spent,
    after: Spent,
    records: int,
    page_size: int,
) -> Account:
    """An account after some more seconds. Pure.

    Args:
        account: as it was.
        now: what ksmd has of the container.
        seconds: since it was booked last.
        before: what was spent until then.
        after: what was spent until now.
        records: of all containers together.
        page_size: bytes of a page.
    """
    cpu = max(0.0, after.cpu - before.cpu) + COPY_SECONDS * max(0, after.breaks - before.breaks)
    share = now.records / records if records else 0.0
    gained = now.merged * page_size * (1 - after.kept_share)
    return replace(
        account,
        gained=account.gained + gained * seconds,
        cost=account.cost + now.records * RECORD_BYTES * seconds + cpu * share * after.price,
    )


def next_pause(before: Withdrawn) -> float:
    """Seconds for which one that did not pay again is left alone. Pure."""
    return min(LONGEST_PAUSE, 2 * before.pause)


class Profit:
    """The accounts of all containers, by cgroup path."""

    def __init__(
        self,
        fair_seconds: float = FAIR_SECONDS,
        fair_scans: int = FAIR_SCANS,
        first_pause: float = FIRST_PAUSE,
    ) -> None:
        """Have no account."""
        self._fair_seconds = fair_seconds
        self._fair_scans = fair_scans
        self._first_pause = first_pause
        self._accounts: dict[str, Account] = {}
        self._withdrawn: dict[str, Withdrawn] = {}
        self._spent: tuple[float, Spent] | None = None

    @property
    def withdrawn(self) -> Collection[str]:
        """Containers that did not pay, until they have."""
        return self._withdrawn.keys()

    def settle(
        self,
        holdings: Mapping[str, Holding],
        spent: Spent,
        now: float,
        page_size: int,
        *,
        gone: Collection[str] = (),
    ) -> list[str]:
        """Book what happened since the last time.

        Args:
            holdings: what ksmd has of each container with enrolled processes.
            spent: what was spent on the node until now.
            now: seconds on a clock that only moves forward.
            page_size: bytes of a page.
            gone: those of `withdrawn` that are no more.

        Returns:
            Containers that have had a fair time and do not pay.
        """
        at, before = self._spent or (now, spent)
        self._spent = (now, spent)
        records = sum(one.records for one in holdings.values())
        losers = []
        accounts = {}
        if now - at > LONGEST_GAP:
            self._accounts = {}
            at, before = now, spent
        for path in gone:
            self._withdrawn.pop(path, None)
        for path, holding in holdings.items():
            if self.keeps_out(path, now):
                continue
            known = self._accounts.get(path)
            if known is None:
                # What was spent before it came others had.
                accounts[path] = Account(now, spent.full_scans)
                continue
            account = book(
                known,
                holding,
                seconds=now - at,
                before=before,
                after=spent,
                records=records,
                page_size=page_size,
            )
            scans = spent.full_scans - account.scans
            if now - account.since >= self._fair_seconds and scans >= self._fair_scans:
                if account.gained < account.cost and holding.records >= LEAST_RECORDS:
                    losers.append(path)
                else:
                    self._withdrawn.pop(path, None)
                account = Account(now, spent.full_scans)
            accounts[path] = account
        self._accounts = accounts
        for path in losers:
            earlier = self._withdrawn.get(path)
            pause = next_pause(earlier) if earlier is not None else self._first_pause
            self._withdrawn[path] = Withdrawn(now + pause, pause)
        return losers

    def keeps_out(self, path: str, now: float) -> bool:
        """Whether a container is left alone for now."""
        withdrawn = self._withdrawn.get(path)
        return withdrawn is not None and now < withdrawn.until
