from benchmarks.governor.ksm_throttler import Throttler, step
from benchmarks.governor.seen import Writes
from unit.benchmarks.nodes import GIB, PAGE, node

INITIAL: Writes = (("pages_to_scan", 100), ("sleep_millisecs", 20), ("run", 0))
ANONYMOUS = 4 * GIB // PAGE


def written(came_at: list[float], seconds: int) -> dict[float, Writes]:
    """What it writes when, with containers that come at these times."""
    state, found = Throttler(INITIAL), dict[float, Writes]()
    for at in range(seconds):
        came = sum(1 for one in came_at if one <= at)
        state, writes = step(state, node(at, came=came))
        if writes:
            found[at] = writes
    return found


def test_nothing_happens_before_a_container_comes() -> None:
    """Nothing could be merged."""
    assert written([], 600) == {}


def test_a_container_starts_the_fastest_stage() -> None:
    """A tenth of all anonymous memory in each batch, with hardly a pause."""
    pages = ANONYMOUS // 10
    expected = (("run", 0), ("pages_to_scan", pages), ("sleep_millisecs", 1), ("run", 1))
    assert written([3], 5) == {3: expected}


def test_it_slows_down_and_ends_with_what_was_before() -> None:
    """30 s, two minutes, two minutes."""
    found = written([0], 600)
    assert list(found) == [0, 30, 150, 270]
    assert dict(found[30])["pages_to_scan"] == ANONYMOUS // 100
    assert dict(found[150])["sleep_millisecs"] == 100
    assert found[270] == INITIAL


def test_each_container_begins_it_anew() -> None:
    """From whichever stage, and after the last one too."""
    assert list(written([0, 20, 400], 450)) == [0, 20, 50, 170, 290, 400, 430]
