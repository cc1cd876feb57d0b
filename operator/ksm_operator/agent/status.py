"""What KSMNode.status says, and when it is worth a write. Pure, with an injected clock."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from ksm_operator.agent.wire import Condition, Counts, NodeMemory, NodeStatus, SkippedCount

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LONGEST_MESSAGE: Final = 200
MOST_REASONS: Final = 8
COUNT_SECONDS: Final = 5.0
"""Least time between two writes for counts: enrolling a hundred pods is a few writes."""
FIGURE_SECONDS: Final = 60.0
"""Least time between two writes for figures alone."""
FIGURE_CHANGE: Final = 0.05
TAKE_OFF: Final = 4
"""A saving that is more than so many times what it was is shown as soon as a count is."""
FIGURES: Final = re.compile(r"\d[\d.,]*")
LEAST_BYTES: Final = 1 << 20
LEAST_MILLI_CPU: Final = 5
"""Smaller movements are no news, whatever their share."""
QUIET_SECONDS: Final = 600.0
"""A status that does not change is written this often."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """One condition before it has a time.

    Attributes:
        type: the condition's type.
        status: whether it holds; None for Unknown.
        reason: one word.
        message: a sentence for people.
    """

    type: str
    status: bool | None
    reason: str
    message: str = ""


def timestamp(now: float) -> str:
    """Return seconds since the epoch in the API's form."""
    return datetime.fromtimestamp(int(now), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: str | None) -> float | None:
    """Return the API's form in seconds since the epoch; None for what is none."""
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def shorten(message: str, longest: int = LONGEST_MESSAGE) -> str:
    """Return a message that the schema accepts."""
    return message if len(message) <= longest else message[: longest - 1] + "…"


def conditions(
    judgements: Iterable[Judgement],
    previous: Iterable[Condition],
    generation: int | None,
    now: float,
) -> tuple[Condition, ...]:
    """Return the conditions; a transition time changes only with the status."""
    before = {condition.type: condition for condition in previous}
    result = []
    for judged in judgements:
        status = "Unknown" if judged.status is None else str(judged.status)
        old = before.get(judged.type)
        kept = old is not None and old.status == status
        result.append(
            Condition(
                type=judged.type,
                status=status,
                reason=judged.reason,
                message=shorten(judged.message),
                observed_generation=generation,
                last_transition_time=(
                    old.last_transition_time if old is not None and kept else timestamp(now)
                ),
            )
        )
    return tuple(result)


def counts(matched: int, merging: int, skipped: Mapping[str, int]) -> Counts:
    """Return counts with the commonest reasons, most first; the rest is one `Other`."""
    ordered = sorted(((-count, reason) for reason, count in skipped.items() if count))
    listed = [SkippedCount(reason=reason, count=-count) for count, reason in ordered]
    if len(listed) > MOST_REASONS:
        rest = sum(one.count for one in listed[MOST_REASONS - 1 :])
        listed = [*listed[: MOST_REASONS - 1], SkippedCount(reason="Other", count=rest)]
    return Counts(matched=matched, merging=merging, skipped=tuple(listed))


@dataclass(frozen=True, slots=True)
class Written:
    """The last write.

    Attributes:
        status: what was written.
        at: when.
        figures_at: when figures were last allowed to cause a write.
        quiet_seconds: after which time it is written again without a change.
        take_off_seconds: least time until a saving that takes off is shown again; each time twice
            as long.
    """

    status: NodeStatus
    at: float
    figures_at: float
    quiet_seconds: float = QUIET_SECONDS
    take_off_seconds: float = COUNT_SECONDS


def due(written: Written | None, status: NodeStatus, now: float) -> bool:
    """Tell whether a status is worth a write now."""
    if written is None or _told(written.status) != _told(status):
        return True
    if _counted(written.status) != _counted(status) and now - written.at >= COUNT_SECONDS:
        return True
    if _took_off(written.status, status) and now - written.at >= written.take_off_seconds:
        return True
    if now - written.figures_at >= FIGURE_SECONDS and _moved(written.status, status):
        return True
    return now - written.at >= written.quiet_seconds


def record(written: Written | None, status: NodeStatus, now: float) -> Written:
    """Return the write that was just made."""
    moved = written is None or _moved(written.status, status)
    patience = written.take_off_seconds if written is not None else COUNT_SECONDS
    if written is not None and now - written.at >= FIGURE_SECONDS:
        patience = COUNT_SECONDS
    elif written is not None and _took_off(written.status, status):
        patience = min(2 * patience, FIGURE_SECONDS)
    return Written(
        status=status,
        at=now,
        figures_at=now if moved or written is None else written.figures_at,
        quiet_seconds=QUIET_SECONDS * random.uniform(0.8, 1.2),  # noqa: S311 - spreads writes
        take_off_seconds=patience,
    )


def _told(status: NodeStatus) -> object:
    """What is written at once: what the controller and people act on."""
    judged = [(one.type, one.status, one.reason) for one in status.conditions]
    return (status.observed_generation, status.owner, status.boot_id, judged)


def _counted(status: NodeStatus) -> object:
    # Figures in messages change all the time on a busy node, and nobody acts on them.
    messages = [FIGURES.sub("#", one.message) for one in status.conditions]
    foreign = (status.foreign_merger_count, status.foreign_mergers)
    return (status.pods, status.containers, foreign, messages, status.baseline)


def _moved(before: NodeStatus, after: NodeStatus) -> bool:
    old, new = before.memory or NodeMemory(), after.memory or NodeMemory()
    were, are = before.processes or Counts(), after.processes or Counts()
    return (
        _differs(old.saved_bytes, new.saved_bytes, LEAST_BYTES)
        or _differs(old.profit_bytes or 0, new.profit_bytes or 0, LEAST_BYTES)
        or _differs(old.phantom_bytes or 0, new.phantom_bytes or 0, LEAST_BYTES)
        or _differs(old.available_bytes or 0, new.available_bytes or 0, LEAST_BYTES)
        or _differs(before.ksmd_milli_cpu or 0, after.ksmd_milli_cpu or 0, LEAST_MILLI_CPU)
        or _differs(were.merging, are.merging, 1)
        or _reasons(were) != _reasons(are)
        or before.kernel != after.kernel
        or _messages(before) != _messages(after)
    )


def _messages(status: NodeStatus) -> list[str]:
    # That of `Merging` says how many processes merge, which has a threshold of its own.
    return [one.message for one in status.conditions if one.reason != "Merging"]


def _reasons(counts: Counts) -> set[str]:
    return {one.reason for one in counts.skipped}


def _took_off(before: NodeStatus, after: NodeStatus) -> bool:
    """The saving is a multiple of what it was: after a policy was applied people look every second.

    It can be so some eight times on the way to all memory of a machine. More would be felt where
    thousands of nodes begin at once.
    """
    old, new = before.memory or NodeMemory(), after.memory or NodeMemory()
    return new.saved_bytes > max(LEAST_BYTES, TAKE_OFF * old.saved_bytes)


def _differs(old: int, new: int, least: int) -> bool:
    return abs(new - old) >= max(least, FIGURE_CHANGE * abs(old))
