"""When a process is worth another look, at its ranges or at what it has open. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LEAST_GROWTH_BYTES: Final = 1 << 20
GROWTH_SHARE: Final = 8
"""A process is looked at again when it has grown by an eighth, so a constant number of looks goes
to each doubling of its memory."""
SPREAD_BYTES: Final = 16 << 30
"""Of addresses that a process has reserved since: ksmd may now better be told its ranges."""
LONGEST_SECONDS: Final = 600.0
"""Memory that was given up and mapped anew elsewhere does not show as growth."""


TELLING_AGES: Final = (2.0, 10.0)
"""A program opens what tells that it must not merge (KVM, userfaultfd) some time after its first
instruction."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a process was like.

    Attributes:
        program: see `read_program`.
        anonymous_bytes: its anonymous memory.
        at: monotonic time.
        address_bytes: its address space, reserved or used.
    """

    program: int
    anonymous_bytes: int
    at: float
    address_bytes: int = 0


def is_due(before: Look | None, now: Look, *, follows_growth: bool) -> bool:
    """Tell whether a process has changed enough since its ranges were read.

    Args:
        before: when they were read last; None for never.
        now: what is known without reading them.
        follows_growth: new memory is not enrolled by itself.
    """
    if before is None or before.program != now.program:
        return True
    if now.at - before.at >= LONGEST_SECONDS:
        return True
    grown = now.anonymous_bytes - before.anonymous_bytes
    return follows_growth and grown >= max(
        LEAST_GROWTH_BYTES, before.anonymous_bytes // GROWTH_SHARE
    )


def has_spread(before: Look | None, now: Look) -> bool:
    """Tell whether a process may have come to have many ranges, or large ones that are empty."""
    if before is None or is_due(before, now, follows_growth=True):
        return True
    return now.address_bytes - before.address_bytes >= SPREAD_BYTES


def is_telling(before: float, now: float) -> bool:
    """Tell whether a process has come to an age at which it is judged again by what it has open.

    Args:
        before: its age when it was judged, seconds.
        now: its age.
    """
    return any(before < age <= now for age in TELLING_AGES)


def anonymous_bytes(status: dict[str, str]) -> int:
    """Return anonymous memory as /proc/PID/status gives it; 0 where it does not."""
    return _bytes(status.get("RssAnon", ""))


def address_bytes(status: dict[str, str]) -> int:
    """Return address space as /proc/PID/status gives it; 0 where it does not."""
    return _bytes(status.get("VmSize", ""))


def _bytes(value: str) -> int:
    number = value.removesuffix(" kB").strip()
    return int(number) * 1024 if number.isdecimal() else 0
