"""What tests of every tier may ask for."""

import time
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from support import kernel, machine

END_SECONDS = 10
"""A child that a test did not end, but whose pipe it closed, has so long to end by itself."""

# How fast a machine is beside other work says nothing about the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(scope="session")
def ksm() -> Iterator[dict[str, bytes]]:
    """This machine's KSM to ourselves, once for all tiers of a run, and given back as it was.

    Yields the values under /sys/kernel/mm/ksm that every test shall find and leave.
    """
    if not kernel.is_root():
        machine.missing("These tests need root", "sudo make test")
    if not kernel.KSM.is_dir():
        machine.missing("This kernel has no KSM", "a kernel built with CONFIG_KSM=y")
    # What an administrator has tuned here shall decide no test.
    with machine.exclusive(), kernel.as_booted() as before:
        merging = kernel.merging_processes()
        yield before
        assert kernel.settings() == before, "these tests left values under /sys changed"
        deadline = time.monotonic() + END_SECONDS
        while left := kernel.merging_processes() - merging:
            assert time.monotonic() < deadline, f"left mergeable by these tests: {sorted(left)}"
            time.sleep(0.05)
