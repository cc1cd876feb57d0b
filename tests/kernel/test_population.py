"""Programs of many kinds are enrolled and released while they work: not one of them notices."""

import math
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kernel.population import build, injection, kinds
from kernel.population.build import Programs
from kernel.population.container import Container
from kernel.population.injection import Start
from kernel.population.kinds import Kind
from ksm_operator.kernel import Helper, KernelFeatures
from local_cluster import cluster, components
from local_cluster.errors import LocalClusterError
from support import kernel, machine

pytestmark = pytest.mark.alone

INJECTIONS = {"calls": 612, "programs": 252, "container": 144}
"""How many there are at least, in all: a thousand."""

SOAK_SHARE = int(os.environ.get("SOAK_INJECTIONS_PER_KIND", "200"))
WAITING_WAVE = 12
"""Kinds that run at the same time, where most of their threads wait."""

BUSY_WAVE = 2 * (os.cpu_count() or 1)
"""The same where they work: a visit takes several turns of a CPU, and waits for each."""

SECONDS_PER_INJECTION = 2
"""Far more than it takes: a machine that is busy gets its time."""

SOAK_SECONDS = 4 * 3600


@pytest.fixture
def helper(ksm: None) -> Iterator[Helper]:
    """The shipped helper, which must not have died in between."""
    made = Helper()
    yield made
    assert made.deaths == 0
    made.close()


@pytest.fixture(scope="session")
def programs() -> Programs:
    """The population's programs."""
    return build.programs()


@pytest.fixture
def merging(prctl: KernelFeatures, ksm_settings: dict[str, bytes]) -> None:
    """Ksmd at work beside the programs: pages merge, and are written to again."""
    kernel.write_setting("sleep_millisecs", 20)
    kernel.write_setting("pages_to_scan", 1000)
    kernel.write_setting("run", 1)


@dataclass(frozen=True)
class Place:
    """Where programs run.

    Attributes:
        kinds: of these.
        start: starts one of them.
        wave_size: how many kinds run at the same time.
    """

    kinds: list[Kind]
    start: Start
    wave_size: int


def run_in_waves(
    place: Place, share: int, helper: Helper, folder: Path
) -> dict[str, injection.Tally]:
    """Some kinds at a time, in an order that differs each time."""
    tallies: dict[str, injection.Tally] = {}
    order = random.sample(place.kinds, len(place.kinds))
    for first in range(0, len(order), place.wave_size):
        wave = folder / f"wave-{first}"
        wave.mkdir()
        some = order[first : first + place.wave_size]
        population = injection.Population(some, wave, helper, start=place.start)
        try:
            population.run(share)
            population.end()
        finally:
            population.kill()
        tallies |= population.tallies
    return tallies


def judge(tallies: dict[str, injection.Tally]) -> None:
    """No deviation; and as many as is promised were enrolled and released in time."""
    for line in injection.report(tallies):
        print(line)
    deviations = {name: tally.deviations for name, tally in tallies.items() if tally.deviations}
    assert not deviations
    late = {name: tally.late for name, tally in tallies.items() if not tally.is_met()}
    assert not late


@pytest.fixture(params=INJECTIONS)
def place(
    request: pytest.FixtureRequest, programs: Programs, merging: None, tmp_path: Path
) -> Iterator[Place]:
    """Blocking calls and programs on this machine; some of both in a container."""
    workloads = [*kinds.c_kinds(programs), *kinds.runtime_kinds(programs)]
    calls = kinds.call_kinds(programs)
    if request.param != "container":
        if request.param == "calls":
            yield Place(calls, injection.start_here, WAITING_WAVE)
        else:
            yield Place(workloads, injection.start_here, BUSY_WAVE)
        return
    try:
        cluster.prepare(("runc",), print)
    except LocalClusterError as error:
        machine.missing(
            "A container needs runc", f"python3 hack/local-cluster build runc ({error})"
        )
    container = Container(components.program("runc"), tmp_path, programs)
    with container.running():
        # The profile forbids io_uring.
        allowed = [kind for kind in calls if "io_uring" not in kind.name]
        yield Place([*random.sample(allowed, 6), *workloads], container.start, BUSY_WAVE)


@pytest.mark.timeout(sum(INJECTIONS.values()) * SECONDS_PER_INJECTION, func_only=True)
def test_population(
    request: pytest.FixtureRequest, place: Place, helper: Helper, tmp_path: Path
) -> None:
    """What a program computes, receives and sees of time is what it would be without us."""
    name = request.node.callspec.params["place"]
    share = math.ceil(INJECTIONS[name] / len(place.kinds))
    judge(run_in_waves(place, share, helper, tmp_path))


@pytest.mark.soak
@pytest.mark.timeout(SOAK_SECONDS, func_only=True)
def test_soak(place: Place, helper: Helper, tmp_path: Path) -> None:
    """What comes once in thousands of times comes here."""
    judge(run_in_waves(place, SOAK_SHARE, helper, tmp_path))
