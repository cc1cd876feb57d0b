from benchmarks.governor.seen import pressed
from benchmarks.governor.virt_handler import LOOP_INTERVAL, MOST_PAGES, SETTLED, VirtHandler, step
from unit.benchmarks.nodes import GIB, node


def test_it_leaves_ksmd_off_where_there_is_room() -> None:
    """A fifth of the memory available is no pressure."""
    assert step(VirtHandler(), node())[1] == (("run", 0),)


def test_it_starts_under_pressure() -> None:
    """With its first batch, and a pause that follows from what is in use."""
    writes = step(VirtHandler(), node(available=0))[1]
    assert writes == (("sleep_millisecs", 50), ("pages_to_scan", 100), ("run", 1))


def test_it_scans_more_as_long_as_the_pressure_lasts() -> None:
    """Up to its most; it goes by what ksmd's file holds."""
    writes = dict(step(VirtHandler(), pressed(node(run=1, pages_to_scan=400)))[1])
    assert writes["pages_to_scan"] == 700
    writes = dict(step(VirtHandler(), pressed(node(run=1, pages_to_scan=1200)))[1])
    assert writes["pages_to_scan"] == MOST_PAGES


def test_it_scans_less_afterwards_and_stops() -> None:
    """Look by look, until a batch would be smaller than its least."""
    writes = dict(step(VirtHandler(), node(run=1, pages_to_scan=114))[1])
    assert (writes["pages_to_scan"], writes["run"]) == (64, 1)
    assert step(VirtHandler(), node(run=1, pages_to_scan=113))[1] == (("run", 0),)


def test_the_pause_has_a_least() -> None:
    """A node with all of a terabyte in use would never sleep."""
    seen = node(available=-1000 * GIB)  # as much in use
    assert dict(step(VirtHandler(), seen)[1])["sleep_millisecs"] == 10


def test_it_looks_twice_at_its_start_and_then_every_three_minutes() -> None:
    """So a short run sees nothing but its start, and the figures must be read so."""
    state, looks = VirtHandler(), []
    for at in range(400):
        state, writes = step(state, pressed(node(at)))
        if writes:
            looks.append(at)
    assert looks == [0, 1, 1 + LOOP_INTERVAL, 1 + 2 * LOOP_INTERVAL]


def test_settled_it_stays_at_its_most() -> None:
    """Its first look is any of those that come every three minutes."""
    state, writes = step(SETTLED, pressed(node(run=1, pages_to_scan=MOST_PAGES)))
    assert dict(writes)["pages_to_scan"] == MOST_PAGES
    assert state.due == LOOP_INTERVAL
