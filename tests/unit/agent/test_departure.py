"""How a release goes on over many ticks."""

from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from dataclasses import dataclass, field

import pytest

from ksm_operator.agent.attention import SLICE_SECONDS
from ksm_operator.agent.departure import Departure
from ksm_operator.agent.releasing import FAILED, MOMENT_PAUSE, ROOM_PAUSE, Left
from ksm_operator.agent.state import Container, State
from ksm_operator.kernel import Process

FIRST, SECOND = "/kubepods/pod1/first", "/kubepods/pod2/second"


@dataclass
class Clock:
    """A clock that goes on when it is told to."""

    now: float = 100.0

    def __call__(self) -> float:
        """Return seconds."""
        return self.now


@dataclass
class Steps:
    """Releases that go as they are told: each step takes and waits for some seconds, then does."""

    state: State
    clock: Clock
    steps: list[tuple[float, float, Callable[[], None]]] = field(default_factory=list)
    left: dict[Process, Left] = field(default_factory=dict)
    begun: list[frozenset[str]] = field(default_factory=list)
    closed: int = 0

    def release(
        self,
        paths: Iterable[str],
        reserve_percent: int,  # noqa: ARG002 - the kernel layer's affair
        only: Mapping[str, Collection[Process]] | None,  # noqa: ARG002 - likewise
    ) -> Generator[float, None, None]:
        """Go through the steps."""
        self.begun.append(frozenset(paths))
        try:
            while self.steps:
                took, wait, what = self.steps.pop(0)
                self.clock.now += took
                what()
                yield wait
        except GeneratorExit:
            self.closed += 1
            raise

    def goes(self, path: str) -> Callable[[], None]:
        """A step's deed: a container was released, and is on record no more."""

        def what() -> None:
            self.state.containers.pop(path, None)

        return what


def nothing() -> None:
    """A step's deed where there is none."""


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def state() -> State:
    """Two containers of one process each."""
    one, two = Process(1, 1), Process(2, 1)
    return State(
        "boot",
        containers={
            FIRST: Container("1", FIRST, {one}),
            SECOND: Container("2", SECOND, {two}),
        },
    )


@pytest.fixture
def releases(state: State, clock: Clock) -> Steps:
    """Releases that have yet to be told how they go."""
    return Steps(state, clock)


@pytest.fixture
def departure(state: State, releases: Steps, clock: Clock) -> Departure:
    """The release to test, of an agent that goes on."""
    return Departure(state, releases, lambda: False, clock)


def test_who_holds_nothing_is_not_waited_for(departure: Departure, releases: Steps) -> None:
    """A container that was never enrolled must not hold up who comes after it."""
    assert departure.step(["/kubepods/pod3/stranger"], 0)
    assert not releases.begun
    assert not departure.paths


@pytest.mark.parametrize("own", [set(), {Process(9, 1)}])
def test_a_record_of_nobody_enrolled_goes_too(
    departure: Departure, releases: Steps, state: State, own: set[Process]
) -> None:
    """As long as it is there no other owner gets the node, and nobody else may join."""
    state.containers[FIRST].enrolled.clear()
    state.containers[FIRST].own = own
    releases.steps = [(0.0, 0.0, releases.goes(FIRST))]
    assert departure.step([FIRST], 0)
    assert releases.begun == [{FIRST}]
    assert FIRST not in state.containers


def test_a_pause_is_kept(departure: Departure, releases: Steps, clock: Clock) -> None:
    """Each try costs the process a stop, so a tick between two of them does nothing."""
    releases.steps = [(0.0, 5.0, nothing), (0.0, 0.0, releases.goes(FIRST))]
    assert not departure.step([FIRST], 0)
    assert departure.wait() == 5.0
    clock.now += 4.9
    assert not departure.step([FIRST], 0)
    assert departure.paths == {FIRST}
    assert len(releases.steps) == 1
    clock.now += 0.2
    assert departure.step([FIRST], 0)
    assert len(releases.begun) == 1


def test_a_tick_has_an_end(departure: Departure, releases: Steps, clock: Clock) -> None:
    """However many go at once, the loop has other things to do too."""
    releases.steps = [(SLICE_SECONDS / 4, 0.0, nothing)] * 40
    began = clock.now
    assert not departure.step([FIRST, SECOND], 0)
    assert clock.now - began < 2 * SLICE_SECONDS
    assert departure.is_going_on
    assert departure.is_due()


def test_who_is_wanted_again_stays(departure: Departure, releases: Steps) -> None:
    """A label that was taken off by mistake and put back costs no container its sharing."""
    releases.steps = [(0.0, 1.0, nothing)]
    assert not departure.step([FIRST, SECOND], 0)
    assert not departure.step([SECOND], 0)
    assert (releases.closed, departure.is_going_on) == (1, False)
    departure.put_off(0.0)
    assert not departure.step([SECOND], 0)
    assert releases.begun == [{FIRST, SECOND}, {SECOND}]


def test_who_has_gone_ends_nothing(departure: Departure, releases: Steps, state: State) -> None:
    """The release that goes on for the others must not start from the beginning."""
    releases.steps = [(0.0, 0.0, nothing), (0.0, 1.0, nothing), (0.0, 0.0, nothing)]
    assert not departure.step([FIRST, SECOND], 0)
    del state.containers[FIRST]
    assert not departure.step([FIRST, SECOND], 0)
    assert (len(releases.begun), releases.closed) == (1, 0)
    assert departure.paths == {SECOND}


@pytest.mark.parametrize(
    ("reason", "pause"), [("SignalArrived", MOMENT_PAUSE), (FAILED, ROOM_PAUSE)]
)
def test_what_stayed_is_tried_again(
    departure: Departure, releases: Steps, clock: Clock, reason: str, pause: float
) -> None:
    """Nobody is forgotten, and nobody is pestered."""
    process = Process(1, 1)
    releases.left[process] = Left(process, FIRST, 1, reason, since=clock.now)
    assert not departure.step([FIRST], 0)
    assert (departure.wait(), departure.is_going_on) == (pause, False)
    clock.now += pause
    releases.steps = [(0.0, 0.0, releases.goes(FIRST))]
    assert departure.step([FIRST], 0)


def test_some_of_a_container_may_go(departure: Departure, releases: Steps, state: State) -> None:
    """It is done when they have, whoever stays."""
    guest = Process(3, 1)
    state.containers[FIRST].enrolled.add(guest)
    releases.steps = [(0.0, 0.0, lambda: state.containers[FIRST].enrolled.discard(guest))]
    assert departure.step([FIRST], 0, {FIRST: [guest]})
    assert state.containers[FIRST].enrolled == {Process(1, 1)}
    assert departure.step([FIRST], 0, {FIRST: [guest]})
    assert len(releases.begun) == 1


def test_all_of_a_container_may_have_to_go_while_some_of_it_goes(
    departure: Departure, releases: Steps
) -> None:
    """It was begun for some, and nobody would find out before they are done."""
    releases.steps = [(0.0, 1.0, nothing)] * 2
    assert not departure.step([FIRST], 0, {FIRST: [Process(1, 1)]})
    assert not departure.paths, "nobody waits for who goes from a container that stays"
    assert departure.under_way == {FIRST}
    assert not departure.step([FIRST], 0)
    assert (releases.closed, departure.paths) == (1, frozenset({FIRST}))
    departure.put_off(0.0)
    assert not departure.step([FIRST], 0)
    assert len(releases.begun) == 2


def test_some_of_a_container_stay_though_all_of_it_was_to_go(
    departure: Departure, releases: Steps
) -> None:
    """Or a container that is wanted again would lose its sharing for one process."""
    releases.steps = [(0.0, 1.0, nothing)]
    assert not departure.step([FIRST], 0)
    assert not departure.step([FIRST], 0, {FIRST: [Process(1, 1)]})
    assert releases.closed == 1


def test_who_leaves_does_not_wait_for_some_who_stay(departure: Departure, releases: Steps) -> None:
    """Others wait for him; what goes from containers that stay may be large."""
    releases.steps = [(0.0, 1.0, nothing)]
    some = {FIRST: [Process(1, 1)]}
    assert not departure.step([FIRST], 0, some)
    assert not departure.step([SECOND, FIRST], 0, some)
    assert releases.closed == 1
    departure.put_off(0.0)
    assert not departure.step([SECOND, FIRST], 0, some)
    assert releases.begun[-1] == {FIRST, SECOND}


def test_who_came_to_leave_meanwhile_is_begun_with_at_once(
    departure: Departure, releases: Steps, state: State
) -> None:
    """He has not been tried yet, so there is nothing to wait for."""
    releases.steps = [(0.0, 0.0, releases.goes(FIRST))]

    def release(paths: frozenset[str]) -> bool:
        return departure.step(sorted(paths & state.containers.keys()), 0)

    departure._begun_for = {FIRST: False}
    departure._steps = releases.release([FIRST], 0, None)
    assert not release(frozenset({FIRST, SECOND}))
    assert departure.is_due()
    releases.steps = [(0.0, 0.0, releases.goes(SECOND))]
    assert release(frozenset({FIRST, SECOND}))


def test_an_agent_that_ends_begins_no_other_step(
    state: State, releases: Steps, clock: Clock
) -> None:
    """It has to be gone before the kubelet loses patience, and what was released is on record."""
    departure = Departure(state, releases, lambda: True, clock)
    releases.steps = [(0.0, 0.0, nothing)] * 3
    assert not departure.step([FIRST], 0)
    assert (len(releases.steps), releases.closed, departure.is_going_on) == (2, 1, False)
