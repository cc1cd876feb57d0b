"""When a container's merging pays, by what it gains and what it costs."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.agent.profit import (
    FAIR_SCANS,
    FAIR_SECONDS,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    RECORD_BYTES,
    Account,
    Holding,
    Profit,
    Spent,
    book,
)
from ksm_operator.agent.worth import PRICE, price

SIZE = 4096
MINUTE = 60.0
PAGES = (1 << 30) // SIZE
RANDOM, TWIN = Holding(PAGES, 0), Holding(PAGES, PAGES)
IDLE = Spent(0.0, 0, 0, 0.5, PRICE)


class Node:
    """Accounts that are settled once a minute."""

    def __init__(self) -> None:
        self.profit = Profit()
        self.now = 0.0
        self.cpu = 0.0
        self.scan_seconds = MINUTE
        self.price: float = PRICE

    def run(
        self,
        holdings: dict[str, Holding],
        seconds: float,
        cpu: float = 0.0,
        gone: tuple[str, ...] = (),
    ) -> list[str]:
        """So long, with so much of a core spent by ksmd; everybody who turned out not to pay."""
        losers, ends = [], self.now + seconds
        while self.now < ends:
            self.now += MINUTE
            self.cpu += cpu * MINUTE
            spent = Spent(self.cpu, 0, int(self.now // self.scan_seconds), 0.5, self.price)
            losers += self.profit.settle(holdings, spent, self.now, SIZE, gone=gone)
        return losers


def test_who_shares_nothing_goes_and_who_shares_stays() -> None:
    """The kernel keeps 16 MiB of records for each GiB that it watches in vain."""
    node = Node()
    holdings = {"/random": RANDOM, "/twin": TWIN}
    assert node.run(holdings, FAIR_SECONDS - MINUTE, cpu=0.01) == []
    assert node.run(holdings, 2 * MINUTE, cpu=0.01) == ["/random"]
    assert node.profit.keeps_out("/random", node.now)
    assert not node.profit.keeps_out("/twin", node.now)


def test_nobody_goes_before_ksmd_has_looked() -> None:
    """Over a large node's memory one scan takes longer than the fair time, and merging two."""
    node = Node()
    node.scan_seconds = FAIR_SECONDS
    assert node.run({"/c": RANDOM}, FAIR_SCANS * FAIR_SECONDS - MINUTE) == []
    assert node.run({"/c": RANDOM}, FAIR_SECONDS + MINUTE) == ["/c"]


def test_pauses_grow_until_it_pays() -> None:
    """Most never will; one whose memory has changed begins with a clean record."""
    node = Node()
    pauses = []
    for _ in range(7):
        assert node.run({"/c": RANDOM}, FAIR_SECONDS + MINUTE) == ["/c"]
        began = node.now
        while node.profit.keeps_out("/c", node.now):
            node.run({"/c": Holding(0, 0)}, MINUTE)
        pauses.append(node.now - began)
    assert pauses[0] == pytest.approx(FIRST_PAUSE, abs=2 * MINUTE)
    assert all(
        later == pytest.approx(min(2 * one, LONGEST_PAUSE), abs=4 * MINUTE)
        for one, later in pairwise(pauses)
    )
    assert node.run({"/c": TWIN}, FAIR_SECONDS + MINUTE) == []
    assert node.run({"/c": RANDOM}, 2 * FAIR_SECONDS + MINUTE) == ["/c"]
    node.run({"/c": Holding(0, 0)}, FIRST_PAUSE)
    assert not node.profit.keeps_out("/c", node.now + MINUTE)


def test_a_small_container_is_no_trouble() -> None:
    """A few pages cost nothing, and a pause process would come and go for ever."""
    assert Node().run({"/small": Holding(10, 0)}, 3 * FAIR_SECONDS) == []


def test_one_that_is_gone_leaves_nothing() -> None:
    """Thousands of jobs come and go on a node."""
    node = Node()
    node.run({"/c": RANDOM}, FAIR_SECONDS + MINUTE)
    node.run({}, MINUTE)
    assert node.profit.keeps_out("/c", node.now), "all of it was let go, and it lives on"
    node.run({}, MINUTE, gone=("/c",))
    assert not node.profit.keeps_out("/c", node.now)


def test_nobody_pays_for_a_time_in_which_ksmd_stood_still() -> None:
    """A pause for others who merge may last for hours, and nothing can merge meanwhile."""
    node = Node()
    assert node.run({"/c": RANDOM}, 5 * MINUTE) == []
    node.now += 8 * 3600
    half = Holding(PAGES, PAGES // 2)
    assert node.run({"/c": half}, FAIR_SECONDS + 2 * MINUTE) == []


@given(
    records=st.integers(1, 1 << 20),
    merged=st.integers(0, 1 << 20),
    cpu=st.floats(0, 60),
    seconds=st.floats(1, 600),
    worth=st.floats(PRICE / 5, PRICE),
)
def test_gain_and_cost_are_in_one_currency(
    records: int, merged: int, cpu: float, seconds: float, worth: float
) -> None:
    """Alone on a node it bears all of ksmd's CPU, at the price that the governor pays too."""
    told = book(
        Account(0.0, 0),
        Holding(records, merged),
        seconds=seconds,
        before=IDLE,
        after=Spent(cpu, 0, 1, 0.5, worth),
        records=records,
        page_size=SIZE,
    )
    assert told.gained == pytest.approx(merged * SIZE / 2 * seconds)
    assert told.cost == pytest.approx(records * RECORD_BYTES * seconds + cpu * worth)


def test_where_memory_is_scarce_a_saving_is_worth_more_cpu() -> None:
    """Or what the governor spends CPU for would be withdrawn for what it cost."""
    few = {"/c": Holding(PAGES, PAGES // 8)}
    cpu = 0.04
    assert Node().run(few, FAIR_SECONDS + 2 * MINUTE, cpu=cpu) == ["/c"]
    short = Node()
    short.price = price(5.0)
    assert short.run(few, FAIR_SECONDS + 2 * MINUTE, cpu=cpu) == []


def test_a_newcomer_is_not_charged_for_what_was_spent_before_it_came() -> None:
    """Accounts are booked each five minutes, and a burst may have ended just before."""
    node = Node()
    node.run({"/old": TWIN}, MINUTE)
    half = Holding(PAGES, PAGES // 2)
    assert node.run({"/old": TWIN, "/new": half}, MINUTE, cpu=1e6) == []
    assert node.run({"/old": TWIN, "/new": half}, FAIR_SECONDS + MINUTE) == ["/old"]
