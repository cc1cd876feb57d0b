"""The kernel tier on Debian's kernels, one test here for each test there."""

from typing import Any

import pytest

from vm.guests import Guest

pytestmark = pytest.mark.vm


@pytest.fixture
def result(guest: Guest, name: str) -> dict[str, Any]:
    """How the test ended there; only waiting for it is done here, so it is not timed."""
    try:
        return guest.result(name)
    except LookupError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def crashed() -> Guest:
    """A guest whose kernel panics while a test runs, and that has ended."""
    made = Guest("aarch64-6.12", ["a test"], ["sh", "-c", "echo c >/proc/sysrq-trigger"])
    made.start()
    made.finish()
    return made


@pytest.fixture
def code(guest: Guest) -> int:
    """The exit code of the whole run there."""
    return guest.finish()


def test_passes(result: dict[str, Any], kernel: str) -> None:
    """Each kernel has to pass its share of the kernel tier; what is skipped there was not tried."""
    if result["outcome"] != "passed":
        pytest.fail(f"{result['outcome']} on kernel {kernel}:\n{result['text']}", pytrace=False)


def test_ends_well(code: int, guest: Guest) -> None:
    """A kernel that crashes, hangs or complains after the last test has failed too."""
    if code != 0 or guest.reported() != set(guest.names):
        pytest.fail(f"exit code {code}; it printed last:\n{guest.end()}", pytrace=False)


def test_a_crash_is_no_pass(crashed: Guest) -> None:
    """The emulator ends with 0 then; a test without a word must not count as passed."""
    assert crashed.finish() != 0
    with pytest.raises(LookupError, match="Kernel panic"):
        crashed.result("a test")
