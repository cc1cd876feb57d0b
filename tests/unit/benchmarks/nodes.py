"""A node as the other projects' rules see it."""

from benchmarks.governor.seen import Seen

GIB = 1 << 30
PAGE = 4096


def node(
    at: float = 0.0,
    *,
    available: int = 16 * GIB,
    free: int = 16 * GIB,
    resident: int = 0,
    came: int = 0,
    went: int = 0,
    run: int = 0,
    pages_to_scan: int = 100,
) -> Seen:
    """One of 32 GiB, half of it free unless told otherwise."""
    return Seen(
        at=at,
        total=32 * GIB,
        available=available,
        free=free,
        anonymous=4 * GIB,
        resident=resident,
        page_size=PAGE,
        came=came,
        went=went,
        run=run,
        pages_to_scan=pages_to_scan,
        sleep_millisecs=20,
    )
