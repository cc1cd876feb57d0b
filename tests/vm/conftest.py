"""Fixtures of the vm tier: guests that start when the tests have been collected."""

import subprocess
import sys
from collections import defaultdict
from collections.abc import Generator, Iterable

import pytest

from vm.guests import REPOSITORY, Guest
from vm.subset import ELSEWHERE, HERE, SUBSETS, chosen

GUESTS = pytest.StashKey[dict[str, Guest]]()


def kernel_tier() -> list[str]:
    """The names of all tests of the kernel tier, collected by a pytest of their own."""
    answer = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "--collect-only", "-q", "--no-header"),
            *("-p", "no:randomly", "-p", "no:cacheprovider"),
            # Named by themselves as well, files for other machines are collected here too.
            *("--keep-duplicates", HERE, *(f"{HERE}/{one}" for one in ELSEWHERE)),
        ],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        raise pytest.UsageError(f"{HERE} cannot be collected:\n{answer.stdout}{answer.stderr}")
    return list(dict.fromkeys(line for line in answer.stdout.splitlines() if "::" in line))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test here for each test there and kernel."""
    if "name" in metafunc.fixturenames:
        names = kernel_tier()
        cases = [(kernel, name) for kernel in SUBSETS for name in chosen(names, kernel)]
        ids = [f"{kernel}-{name.removeprefix(HERE + '/')}" for kernel, name in cases]
        metafunc.parametrize(("kernel", "name"), cases, ids=ids)
    elif "kernel" in metafunc.fixturenames:
        metafunc.parametrize("kernel", SUBSETS)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ours come last: the guests run while the other tiers do."""
    items.sort(key=lambda item: item.get_closest_marker("vm") is not None)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Boot each kernel that a selected test is about."""
    wanted: defaultdict[str, list[str]] = defaultdict(list)
    for item in session.items:
        if item.get_closest_marker("vm") and "guest" in getattr(item, "fixturenames", ()):
            parameters = item.callspec.params  # type: ignore[attr-defined]
            wanted[parameters["kernel"]] += [parameters["name"]] if "name" in parameters else []
    session.config.stash[GUESTS] = {
        kernel: Guest(kernel, names or chosen(kernel_tier(), kernel))
        for kernel, names in wanted.items()
    }
    if not session.config.option.collectonly:
        guests = session.config.stash[GUESTS].values()
        session.config.pluginmanager.register(Standstill(guests))
        # The longest first, so that none is left alone at the end.
        order = list(SUBSETS)
        for guest in sorted(guests, key=lambda guest: order.index(guest.kernel)):
            guest.start()


class Standstill:
    """Guests stand still while a test runs that needs the machine to itself."""

    def __init__(self, guests: Iterable[Guest]) -> None:
        self._guests = list(guests)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Around the whole test, fixtures and all."""
        if item.get_closest_marker("alone") is None:
            return (yield)
        for guest in self._guests:
            guest.pause()
        try:
            return (yield)
        finally:
            for guest in self._guests:
                guest.resume()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Nothing is left running, whatever ended the session."""
    for guest in session.config.stash.get(GUESTS, {}).values():
        guest.stop()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Where the time of the vm tier went: nothing else tells."""
    for guest in config.stash.get(GUESTS, {}).values():
        if guest.reported():
            terminalreporter.write_line(f"guest {guest.time()}")


@pytest.fixture
def guest(kernel: str, pytestconfig: pytest.Config) -> Guest:
    """The machine that runs this kernel."""
    return pytestconfig.stash[GUESTS][kernel]
