"""Who decides what ksmd does: the kernel alone, the other projects' rules, and ours."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from benchmarks.governor import ksm_throttler, ksmtuned, virt_handler
from benchmarks.governor.seen import pressed
from ksm_operator.agent.agent import RESYNC_SECONDS
from ksm_operator.agent.governor import Governor
from ksm_operator.agent.knobs import Knobs
from ksm_operator.agent.metrics import Metrics
from ksm_operator.agent.obey import Obedience
from ksm_operator.agent.reconcile import RESERVE_PERCENT
from ksm_operator.agent.state import State
from ksm_operator.agent.wire import Ksmd, NodePolicy, NodeSpec
from support import kernel

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.governor.cast import Cast
    from benchmarks.governor.node import Node
    from benchmarks.governor.seen import Seen, Writes
    from ksm_operator.agent.knobs import Troubles

PEER_INTERVAL: Final = 1.0
"""Seconds between two looks on behalf of another project's rules: they see what came within it."""
OURS: Final = "ours"

S = TypeVar("S")


class Driver(Protocol):
    """What drives ksmd."""

    def step(self) -> float:
        """Look, write what has to be, and return the seconds until the next step."""


class Once:
    """Writes something at the start and leaves the rest to the kernel."""

    def __init__(self, node: Node, values: dict[str, int | str]) -> None:
        node.write(values)

    def step(self) -> float:
        """Do nothing."""
        return PEER_INTERVAL


class Ruled(Generic[S]):
    """Drives ksmd by rules that are a function of what is remembered and seen."""

    def __init__(
        self,
        node: Node,
        cast: Cast,
        state: S,
        rules: Callable[[S, Seen], tuple[S, Writes]],
        view: Callable[[Seen], Seen] = lambda seen: seen,
    ) -> None:
        self._node, self._cast = node, cast
        self._state, self._rules, self._view = state, rules, view
        self._began = time.monotonic()

    def step(self) -> float:
        """Look and write."""
        seen = self._node.see(time.monotonic() - self._began, self._cast)
        self._state, writes = self._rules(self._state, self._view(seen))
        for name, value in writes:
            self._node.sysfs.write(name, value)
        return PEER_INTERVAL


class Ours:
    """The agent's hands as its loop moves them; the policy has only its defaults.

    They enrol the containers, let those go that live in huge pages and do not share enough, and
    govern ksmd.

    Raises:
        RuntimeError: on a step in which a value could not be written.
    """

    def __init__(self, node: Node, cast: Cast) -> None:
        self._cast = cast
        self._hands = Obedience(
            node.host, State("benchmark"), lambda: None, Metrics("benchmark"), lambda: False
        )
        self._hands.hold(False)
        self._spec = NodeSpec(desired_state="Merging", policy=NodePolicy())
        self._next_govern = 0.0
        self._next_resync = time.monotonic() + RESYNC_SECONDS
        self._there = set[str]()

    def step(self) -> float:
        """Let them work."""
        hands = self._hands
        if time.monotonic() >= self._next_resync:
            self._next_resync += RESYNC_SECONDS
            hands.enrolment.prune()
            hands.look_again()
        there = set(self._cast.cgroups())
        if vanished := self._there - there:
            for path in vanished:
                hands.attention.vanished(path)
            hands.enrolment.prune()
        self._there = there
        # As `Reconciler`: who has to go goes before anybody joins.
        outgoing = hands.enrolment.outgoing()
        released = hands.departure.step(list(outgoing), RESERVE_PERCENT, outgoing)
        hands.attention.enrol(there, lambda _: "benchmark")
        if time.monotonic() >= self._next_govern:
            pause = min(hands.govern(self._spec), PEER_INTERVAL)
            _check(hands.troubles)
            self._next_govern = time.monotonic() + pause
        due = min(self._next_govern, hands.attention.next_due())
        if not released:
            due = min(due, time.monotonic() + hands.patience())
        return max(0.0, due - time.monotonic())


class OursForAll:
    """The agent's governor alone, with the same containers enrolled as for the others.

    Raises:
        RuntimeError: on a step in which a value could not be written.
    """

    def __init__(self, node: Node, cast: Cast) -> None:
        self._cast = cast
        knobs = Knobs(node.sysfs, State("benchmark"), lambda: None)
        self._governor = Governor(node.host, knobs)
        self._ksmd = Ksmd()

    def step(self) -> float:
        """Let it work."""
        troubles, pause = self._governor.step(self._ksmd, self._cast.came, self._cast.cgroups())
        _check(troubles)
        return pause


def _check(troubles: Troubles | None) -> None:
    if troubles is not None and (troubles.refused or troubles.read_only or troubles.pending):
        raise RuntimeError(f"the governor could not write: {troubles}")


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One that is compared.

    Attributes:
        title: what it is, for people.
        start: begin on a node with a load.
        usual: whether it is part of a run that names none.
        enrols: whether it enrols the containers too.
    """

    title: str
    start: Callable[[Node, Cast], Driver]
    usual: bool = True
    enrols: bool = False


def _throttler(node: Node, cast: Cast) -> Driver:
    names = ("pages_to_scan", "sleep_millisecs", "run")
    initial = tuple((name, kernel.DEFAULTS[name]) for name in names)
    return Ruled(node, cast, ksm_throttler.Throttler(initial), ksm_throttler.step)


def _settled(node: Node) -> Node:
    """Have on the node what virt-handler finds there after a quarter of an hour of pressure."""
    node.write({"pages_to_scan": virt_handler.MOST_PAGES, "run": 1})
    return node


ALGORITHMS: Final = {
    "kernel": Algorithm("kernel's defaults", lambda node, _: Once(node, {"run": 1})),
    "advisor": Algorithm(
        "kernel's advisor",
        lambda node, _: Once(node, {"advisor_mode": "scan-time", "run": 1}),
    ),
    "ksmtuned": Algorithm(
        "ksmtuned, under pressure",
        lambda node, cast: Ruled(node, cast, ksmtuned.SETTLED, ksmtuned.step, pressed),
    ),
    "ksmtuned-fresh": Algorithm(
        "ksmtuned, under pressure since now",
        lambda node, cast: Ruled(node, cast, ksmtuned.Ksmtuned(), ksmtuned.step, pressed),
        usual=False,
    ),
    "ksmtuned-idle": Algorithm(
        "ksmtuned, by this machine's memory",
        lambda node, cast: Ruled(node, cast, ksmtuned.Ksmtuned(), ksmtuned.step),
        usual=False,
    ),
    "virt-handler": Algorithm(
        "virt-handler, under pressure",
        lambda node, cast: Ruled(
            _settled(node), cast, virt_handler.SETTLED, virt_handler.step, pressed
        ),
    ),
    "virt-handler-fresh": Algorithm(
        "virt-handler, under pressure since now",
        lambda node, cast: Ruled(
            node, cast, virt_handler.VirtHandler(), virt_handler.step, pressed
        ),
        usual=False,
    ),
    "virt-handler-idle": Algorithm(
        "virt-handler, by this machine's memory",
        lambda node, cast: Ruled(node, cast, virt_handler.VirtHandler(), virt_handler.step),
        usual=False,
    ),
    "ksm-throttler": Algorithm("ksm-throttler", _throttler),
    OURS: Algorithm("ksm-operator, Auto", Ours, enrols=True),
    "ours-for-all": Algorithm("ksm-operator, Auto, with all enrolled", OursForAll, usual=False),
}
"""By the name that `--algorithms` takes."""
