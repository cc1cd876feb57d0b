"""One machine has one KSM: the tiers that use it take turns, and leave it as they found it."""

import contextlib
import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

LOCK = Path("/run/lock/ksm-operator-tests.lock")


@contextlib.contextmanager
def exclusive(lock: Path = LOCK) -> Iterator[None]:
    """Wait for and hold the lock of everything that changes this machine's KSM.

    SIGTERM ends its holder as Ctrl-C does, so that a `timeout` leaves nothing behind either.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Another run uses this machine's KSM ({lock}); waiting for it ...", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def memory_bytes() -> int:
    """How much memory this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def missing(what: str, command: str) -> NoReturn:
    """Skip what cannot run here, and say the command that provides it; CI never skips."""
    message = f"{what}. Provide it with: {command}"
    if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
        pytest.fail(f"{message} (CI skips nothing)", pytrace=False)
    pytest.skip(message)
