"""The programs of the loads, as processes, without any merging."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.governor.loads import Container
from benchmarks.governor.program import Program, command, family, resident

CONTAINERS = {
    "worker": Container("worker", ("4", "1", "data")),
    "web_server": Container("web_server", ("2", "2", "2", "5", "web")),
    "collector": Container("collector", ("4", "1", "heap")),
    "noise": Container("noise", ("4", "noise", "small")),
    "noise in huge pages": Container("noise", ("4", "noise", "huge"), huge=True),
    "breaker": Container("breaker", ("4",)),
}


@pytest.fixture(params=CONTAINERS)
def program(request: pytest.FixtureRequest) -> Iterator[Program]:
    """One of them, started."""
    started = Program(*command(CONTAINERS[request.param], Path()))
    yield started
    started.end()


def test_a_program_takes_its_memory_after_it_was_enrolled(program: Program) -> None:
    """It waits for that, because a container is enrolled before its first instruction."""
    program.expect("started")
    program.tell("go")
    program.expect("ready")
    pids = list(family(program.pid))
    assert all(resident(pid) for pid in pids)
    program.end()
    assert not any(resident(pid) for pid in pids), "nothing of it may stay"


def test_a_program_ends_with_its_input(program: Program) -> None:
    """Whatever ends the benchmark closes it, a SIGKILL too."""
    program.expect("started")
    program.tell("go")
    program.expect("ready")
    program.close_input()
    assert program.wait(10.0)
