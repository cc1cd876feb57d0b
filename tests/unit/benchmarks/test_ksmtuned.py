from benchmarks.governor.ksmtuned import MONITOR_INTERVAL, MOST_PAGES, SETTLED, Ksmtuned, step
from benchmarks.governor.seen import Seen, pressed
from unit.benchmarks.nodes import GIB, node


def pages_over(seen: list[Seen]) -> list[int]:
    """The batches that it writes, look by look."""
    state, batches = Ksmtuned(), list[int]()
    for one in seen:
        state, writes = step(state, one)
        batches += [int(value) for name, value in writes if name == "pages_to_scan"]
    return batches


def test_it_stops_where_there_is_room() -> None:
    """Neither the virtual machines nor all else comes near the node's memory."""
    assert step(Ksmtuned(), node(resident=8 * GIB))[1] == (("run", 0),)


def test_it_starts_where_little_is_free() -> None:
    """A boost from nothing, with the shortest pause on a large node."""
    state, writes = step(Ksmtuned(), pressed(node()))
    assert writes == (("pages_to_scan", 300), ("sleep_millisecs", 10), ("run", 1))
    assert state.pages == 300


def test_it_starts_where_the_virtual_machines_could_need_it() -> None:
    """Their memory counts even while it is free, but then it decays to the least."""
    writes = step(Ksmtuned(), node(resident=27 * GIB))[1]
    assert writes == (("pages_to_scan", 64), ("sleep_millisecs", 10), ("run", 1))


def test_it_looks_once_a_minute() -> None:
    """What happens in between it does not see."""
    seen = [pressed(node(at)) for at in (0, 1, 59, MONITOR_INTERVAL, 61)]
    assert pages_over(seen) == [300, 600]


def test_it_looks_when_a_virtual_machine_comes_or_goes() -> None:
    """Libvirt sends it a signal."""
    seen = [pressed(node(at, came=came, went=went)) for at, came, went in ((0, 0, 0), (1, 1, 0))]
    assert pages_over([*seen, pressed(node(2, came=1, went=1))]) == [300, 600, 900]


def test_a_batch_has_an_end() -> None:
    """However long memory is short."""
    assert pages_over([pressed(node(at)) for at in range(0, 600, 60)])[-1] == MOST_PAGES


def test_settled_is_what_it_comes_to_under_pressure() -> None:
    """A run that is short begins where it would be after a long one, not at its first boost."""
    state = Ksmtuned()
    for at in range(0, 600, 60):
        state, _ = step(state, pressed(node(at)))
    assert SETTLED.pages == state.pages
    assert dict(step(SETTLED, pressed(node()))[1])["pages_to_scan"] == MOST_PAGES
