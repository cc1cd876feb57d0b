"""When a policy's new status is worth a write. Pure.

A fleet's figures move all the time; what a person or a program acts on does not. All policies
together write for counts and figures at most so often in a second, however many they are: fifty
policies over thousands of nodes stay quiet, and a small cluster shows what happens as it happens.
"""

from collections.abc import Mapping
from typing import Any, Final

COUNT_SECONDS: Final = 2.0
"""Least time between two writes of one policy for counts and messages alone."""
COUNTS_PER_SECOND: Final = 5.0
"""Most writes of all policies together for them."""
FIGURE_SECONDS: Final = 30.0
"""Least time between two writes of one policy for figures alone."""
FIGURES_PER_SECOND: Final = 1.0
"""Most writes of all policies together for them."""
_LEAST_BYTES: Final = 1 << 20


def wait(before: Mapping[str, Any], after: Mapping[str, Any], policies: int) -> float | None:
    """Return how long after the last write a status may be written; None for never: it is the same.

    Args:
        before: what the API server has.
        after: what it should have.
        policies: how many policies there are.
    """
    if before == after:
        return None
    if _told(before) != _told(after):
        return 0.0
    if _counted(before) != _counted(after) or _took_off(before, after):
        return max(COUNT_SECONDS, policies / COUNTS_PER_SECOND)
    return max(FIGURE_SECONDS, policies / FIGURES_PER_SECOND)


def told(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Tell whether a status says something else, and not only other counts or figures."""
    return _told(before) != _told(after)


def _told(status: Mapping[str, Any]) -> object:
    """What is written at once: what people and programs act on."""
    return (
        status.get("observedGeneration"),
        [
            (one["type"], one["status"], one["reason"], one.get("observedGeneration"))
            for one in status.get("conditions", ())
        ],
    )


def _counted(status: Mapping[str, Any]) -> object:
    messages = [one.get("message") for one in status.get("conditions", ())]
    return (messages, status.get("nodes"), status.get("pods"), status.get("namespaces"))


def _took_off(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Tell whether the saving more than doubled: after a policy was applied people look often."""
    return _saved(after) > max(_LEAST_BYTES, 2 * _saved(before))


def _saved(status: Mapping[str, Any]) -> int:
    return int(status.get("memory", {}).get("savedBytes", 0))
