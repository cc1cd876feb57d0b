"""Who decides what ksmd does: the kernel alone, the other projects' rules, and ours."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from benchmarks.governor import ksm_throttler, ksmtuned, virt_handler
from benchmarks.governor.node import DEFAULTS
from benchmarks.governor.seen import pressed
from ksm_operator.agent.governor import Governor
from ksm_operator.agent.knobs import Knobs
from ksm_operator.agent.state import State
from ksm_operator.agent.wire import Ksmd

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.governor.cast import Cast
    from benchmarks.governor.node import Node
    from benchmarks.governor.seen import Seen, Writes

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
    """The agent's governor as the agent's loop lets it work; the policy has only its defaults.

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
        troubles, pause = self._governor.step(self._ksmd, self._cast.came)
        if troubles is not None and (troubles.refused or troubles.read_only or troubles.pending):
            raise RuntimeError(f"the governor could not write: {troubles}")
        return pause


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One that is compared.

    Attributes:
        title: what it is, for people.
        start: begin on a node with a load.
        usual: whether it is part of a run that names none.
    """

    title: str
    start: Callable[[Node, Cast], Driver]
    usual: bool = True


def _throttler(node: Node, cast: Cast) -> Driver:
    names = ("pages_to_scan", "sleep_millisecs", "run")
    initial = tuple((name, DEFAULTS[name]) for name in names)
    return Ruled(node, cast, ksm_throttler.Throttler(initial), ksm_throttler.step)


ALGORITHMS: Final = {
    "kernel": Algorithm("kernel's defaults", lambda node, _: Once(node, {"run": 1})),
    "advisor": Algorithm(
        "kernel's advisor",
        lambda node, _: Once(node, {"advisor_mode": "scan-time", "run": 1}),
    ),
    "ksmtuned": Algorithm(
        "ksmtuned, under pressure",
        lambda node, cast: Ruled(node, cast, ksmtuned.Ksmtuned(), ksmtuned.step, pressed),
    ),
    "ksmtuned-idle": Algorithm(
        "ksmtuned, by this machine's memory",
        lambda node, cast: Ruled(node, cast, ksmtuned.Ksmtuned(), ksmtuned.step),
        usual=False,
    ),
    "virt-handler": Algorithm(
        "virt-handler, under pressure",
        lambda node, cast: Ruled(
            node, cast, virt_handler.VirtHandler(), virt_handler.step, pressed
        ),
    ),
    "virt-handler-idle": Algorithm(
        "virt-handler, by this machine's memory",
        lambda node, cast: Ruled(node, cast, virt_handler.VirtHandler(), virt_handler.step),
        usual=False,
    ),
    "ksm-throttler": Algorithm("ksm-throttler", _throttler),
    OURS: Algorithm("ksm-operator, Auto", Ours),
}
"""By the name that `--algorithms` takes."""
