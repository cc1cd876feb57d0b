"""Whether a container has room enough to gain anything by merging.

What it merges it may want back at once, and who pays cannot be chosen. With next to no room left
it would be killed for that, unless all others gave back whatever it pays for: it is a risk, and
no gain. Cgroups above the pod do not count: whom it shares with lives in them too, mostly, so
that merging makes room there first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ksm_operator.kernel.headroom import cgroup_levels
from ksm_operator.kernel.unmerge import MARGIN_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ksm_operator.agent.seen import Seen
    from ksm_operator.kernel import Hierarchy
    from ksm_operator.kernel.headroom import Level

NO_HEADROOM: Final = "NoHeadroom"

OWN_LEVELS: Final = 2
"""The container's cgroup and its pod's."""


def has_headroom(levels: Iterable[Level]) -> bool:
    """Tell whether each level has more room than every release and every break leaves alone."""
    return all(level.room is None or level.room > MARGIN_BYTES for level in levels)


def may_join(hierarchy: Hierarchy, path: str) -> bool:
    """Tell whether a container has room for merging, by its own limit and its pod's."""
    return has_headroom(cgroup_levels(hierarchy, hierarchy.path(path), most=OWN_LEVELS))


def without_headroom(seen: Mapping[str, Seen], paths: Iterable[str]) -> list[str]:
    """Return those of these containers that were left alone because they have no room."""
    return [path for path in paths if path in seen and NO_HEADROOM in seen[path].skipped.values()]
