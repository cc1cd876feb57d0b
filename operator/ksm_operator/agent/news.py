"""What the main loop hears of: every thread of the agent puts these on one queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ksm_operator.agent.foreign import Candidate
    from ksm_operator.agent.watcher import Watcher
    from ksm_operator.agent.wire import Node, ObjectMeta


@dataclass(frozen=True, slots=True)
class Listed:
    """A complete list arrived; what it does not hold is not there as far as the server says."""

    source: Watcher
    items: tuple[Node | ObjectMeta, ...]


@dataclass(frozen=True, slots=True)
class Changed:
    """An object appeared or changed."""

    source: Watcher
    item: Node | ObjectMeta


@dataclass(frozen=True, slots=True)
class Deleted:
    """An object was deleted or does not match the selector any more: the server does not say."""

    source: Watcher
    item: Node | ObjectMeta


@dataclass(frozen=True, slots=True)
class LookedUp:
    """The answer to a question about one namespace; labels are None if there is no such one."""

    name: str
    labels: Mapping[str, str] | None


@dataclass(frozen=True, slots=True)
class CgroupAppeared:
    """A directory appeared in the memory hierarchy; its path as /proc/PID/cgroup has it."""

    path: str


@dataclass(frozen=True, slots=True)
class CgroupVanished:
    """A directory went."""

    path: str


@dataclass(frozen=True, slots=True)
class CgroupEntered:
    """A process was put into a container, given by its cgroup's path."""

    path: str


@dataclass(frozen=True, slots=True)
class CgroupsUncertain:
    """Events were lost: look at the whole hierarchy."""


@dataclass(frozen=True, slots=True)
class ForeignSeen:
    """What a look at all processes came to.

    Attributes:
        mergers: processes outside of the domain that merge now.
        managers: names of processes here that manage ksmd.
        round: number of the last complete look that somebody waited for.
    """

    mergers: tuple[Candidate, ...]
    managers: frozenset[str]
    round: int


@dataclass(frozen=True, slots=True)
class Stop:
    """SIGTERM: finish."""


News = (
    Listed
    | Changed
    | Deleted
    | LookedUp
    | CgroupAppeared
    | CgroupVanished
    | CgroupEntered
    | CgroupsUncertain
    | ForeignSeen
    | Stop
)
