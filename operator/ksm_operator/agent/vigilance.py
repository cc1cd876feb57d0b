"""When the guard looks at the node: what a look may cost, and what makes one urgent. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ksm_operator.kernel.headroom import V1_UNLIMITED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ksm_operator.kernel.headroom import Level


@dataclass(frozen=True, slots=True)
class Glance:
    """What can be had for next to nothing.

    Attributes:
        saved: what merging gives back on the node now, in bytes.
        merged: bytes that were merged since the agent began, whatever became of them.
        newcomers: containers enrolled since the agent began.
        used: bytes charged to cgroups, by name.
        limits: their limits by name, as `read_limits` reads them; of those without one, too.
    """

    saved: int = 0
    merged: int = 0
    newcomers: int = 0
    used: Mapping[str, int] = field(default_factory=dict)
    limits: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)

    def beside(self, levels: Mapping[str, Level]) -> Glance:
        """The glance at the beginning of a look, with the figures that its rooms were made of.

        What grows while a look goes on, which may take long, counts as growth since.
        """
        used = {name: one.usage for name, one in levels.items() if one.usage is not None}
        limits = {name: one.limits for name, one in levels.items() if one.limits}
        return replace(self, used=used, limits=limits)


@dataclass(frozen=True, slots=True)
class Looked:
    """The last look.

    Attributes:
        at: when it ended, seconds on a clock that only moves forward.
        cpu_seconds: what it cost.
        before: the glance at its beginning; usage and limits as they were when the rooms were read.
        spare: room of each cgroup with a limit beyond what it may come to need, as it was found.
    """

    at: float
    cpu_seconds: float
    before: Glance
    spare: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Vigilance:
    """How watchful the guard is.

    Attributes:
        glance_seconds: between two glances, which read one small file for each cgroup with a limit.
        limits_seconds: between two glances at the limits: they hardly ever change.
        rest_seconds: least time between two looks while nothing has changed.
        rest_share: most of one core that looks may take meanwhile: one that took 1 s of CPU is
            not repeated for 500 s.
        unknown_share: most of one core that looks may take while something is merged and a
            container has come since the last one, of whose room nothing is known.
        urgent_seconds: least time between two looks in that case, and where somebody may lack room.
        urgent_share: most of one core that looks may take where somebody may lack room.
        grown_bytes: of merging or usage, since the last look, that is within the margin which
            every plan keeps.
    """

    glance_seconds: float = 2.0
    limits_seconds: float = 10.0
    rest_seconds: float = 60.0
    rest_share: float = 0.002
    unknown_share: float = 0.01
    urgent_seconds: float = 1.0
    urgent_share: float = 0.05
    grown_bytes: int = 2 << 20

    def is_due(self, last: Looked | None, now: float, glance: Glance) -> bool:
        """Tell whether it is time for another look."""
        if last is None:
            return glance.saved > 0
        if self.is_urgent(last, glance):
            least, share = self.urgent_seconds, self.urgent_share
        elif glance.saved and glance.newcomers != last.before.newcomers:
            # Whether any of what is merged is theirs no counter of the node tells: what they merge
            # may come just when as much goes with those whose place they take.
            least, share = self.urgent_seconds, self.unknown_share
        elif glance.saved or last.before.saved:
            least, share = self.rest_seconds, self.rest_share
        else:
            return False
        return now - last.at >= max(least, last.cpu_seconds / share)

    def is_urgent(self, last: Looked, glance: Glance) -> bool:
        """Tell whether some cgroup may lack room that the last look found it to have.

        A page that is merged adds at most two to what a cgroup may come to need: a mapping, and a
        charge that may become a phantom. A cgroup that came later has not been looked at. What
        merging gives back does not tell it: where pods are replaced it stays as it was.
        """
        # The first stands still while nobody governs ksmd, who may be had to scan by somebody else.
        before = last.before
        merged = max(glance.merged - before.merged, glance.saved - before.saved)
        may_need = 2 * merged if merged > self.grown_bytes else 0
        if may_need and glance.newcomers != last.before.newcomers:
            return True
        lowered = _lowered(last.before.limits, glance.limits)
        if lowered.keys() - last.spare.keys():
            return True  # what had none has one now
        for name, spare in last.spare.items():
            used = glance.used.get(name, 0) - last.before.used.get(name, 0)
            grown = may_need + (used if used > self.grown_bytes else 0) + lowered.get(name, 0)
            if grown > max(0, spare):
                return True
        return False


def _lowered(
    before: Mapping[str, tuple[int | None, ...]], now: Mapping[str, tuple[int | None, ...]]
) -> dict[str, int]:
    """By how many bytes, of those that have a lower limit now; a new one is lower than none."""
    found = {}
    for name, limits in now.items():
        pairs = zip(before.get(name, limits), limits, strict=True)
        less = [
            (V1_UNLIMITED if was is None else was) - limit
            for was, limit in pairs
            if limit is not None
        ]
        if (most := max(less, default=0)) > 0:
            found[name] = most
    return found
