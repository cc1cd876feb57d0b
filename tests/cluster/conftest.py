"""The local cluster and the operator on it, once for all tests of this tier."""

import os
import shutil
import subprocess
from collections.abc import Generator, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cluster import diagnosis, operator_release
from cluster.agent_program import AgentProgram
from cluster.command import REPOSITORY, Command, Kubectl, make, make_visibly, wait_until
from cluster.control_plane import ControlPlane
from cluster.controllers import Nursery
from cluster.fleet import Fleet
from cluster.own_node import OwnNode
from cluster.stage import Stage
from cluster.traces import traces
from cluster.world import World
from local_cluster import layout
from support import kernel, machine

TEST_SECONDS = 400
"""Far more than any test takes; fixtures wait for the machine, and build and install."""

HERE = REPOSITORY / "tests" / "cluster"
BEGAN = datetime.now(UTC)

_KUBECTL = pytest.StashKey[Kubectl]()
_LEFT_OUT = pytest.StashKey[list[str]]()
_SOAKED = pytest.StashKey[set[Path]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this tier, let none of them hang, and have the last one last."""
    mine = [item for item in items if item.path.is_relative_to(HERE)]
    for item in mine:
        item.add_marker(pytest.mark.cluster)
        item.add_marker(pytest.mark.timeout(TEST_SECONDS, func_only=True))
    for item in [one for one in mine if "whole_tier" in getattr(one, "fixturenames", ())]:
        items.remove(item)
        last = max(index for index, one in enumerate(items) if one.path.is_relative_to(HERE))
        items.insert(last + 1, item)


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Remember which tests of this tier are left out."""
    for item in items:
        if not item.path.is_relative_to(HERE):
            continue
        if item.get_closest_marker("soak") is not None:
            item.config.stash.setdefault(_SOAKED, set()).add(item.path)
        else:
            item.config.stash.setdefault(_LEFT_OUT, []).append(item.nodeid)


@pytest.fixture(scope="session")
def whole_tier(request: pytest.FixtureRequest) -> datetime:
    """When the session began; for the one test that looks back on all others of this tier."""
    soaked: set[Path] = request.config.stash.get(_SOAKED, set())
    there = soaked | {item.path for item in request.session.items}
    left_out = [
        *request.config.stash.get(_LEFT_OUT, []),
        *(name for name in request.config.args if "::" in name),
        *(str(file) for file in sorted(HERE.glob("test_*.py")) if file not in there),
    ]
    if left_out:
        pytest.skip(f"looks back on the whole tier, of which this run left out {left_out[0]}")
    return BEGAN


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the operator says and logs beside a failure.

    Once for failing fixtures: when the operator does not install, every test fails for that.
    """
    report = yield
    kubectl = item.session.stash.get(_KUBECTL, None)
    if report.failed and kubectl is not None:
        if report.when == "setup":
            del item.session.stash[_KUBECTL]
        report.sections.extend(diagnosis.sections(kubectl))
    made = getattr(item, "funcargs", {}).get("world")
    if report.failed and report.when == "call" and made is not None:
        report.sections.extend(made.sections())
    return report


@pytest.fixture(scope="session")
def cluster(ksm: dict[str, bytes], request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Environment variables for the local cluster, brought up if it was not.

    One that was up stays up: somebody uses it, so only one of ours can be held to leave no trace.
    """
    if not (shutil.which("go") or shutil.which("go", path="/usr/local/go/bin:/usr/lib/go/bin")):
        machine.missing("The cluster tier builds Kubernetes with Go", "apt-get install golang-go")
    if shutil.which("make") is None:
        machine.missing("The cluster tier is started by make", "apt-get install make")
    before = traces()
    was_up = Command("make", dict(os.environ))("-s", "cluster-status", check=False).returncode == 0
    make_visibly("cluster-up", request.config)
    try:
        yield _shell_environment()
    finally:
        if not was_up:
            make("cluster-down", timeout=120)
            wait_until(lambda: _same(before), 20, "mounts, cgroups, links, programs as before")


def _same(before: dict[str, list[str]]) -> bool:
    after = traces()
    for kind, was in before.items():
        changed = sorted(set(after[kind]) ^ set(was))
        assert not changed, f"{kind}: left behind or missing: {', '.join(changed)}"
    return True


def _shell_environment() -> dict[str, str]:
    """What a person's shell has after `eval "$(make -s cluster-env)"`."""
    shown = subprocess.run(
        ["bash", "-c", 'eval "$(make -s cluster-env)" && env -0'],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
    )
    pairs = [entry.partition("=") for entry in shown.stdout.split("\0") if entry]
    return {name: value for name, _, value in pairs}


@pytest.fixture(scope="session")
def kubectl(cluster: dict[str, str], request: pytest.FixtureRequest) -> Kubectl:
    """The cluster's kubectl as root of the cluster."""
    command = Kubectl(_program("kubectl", cluster), cluster)
    request.session.stash[_KUBECTL] = command
    return command


@pytest.fixture(scope="session")
def helm(cluster: dict[str, str]) -> Command:
    """The cluster's helm."""
    return Command(_program("helm", cluster), cluster)


def _program(name: str, environment: dict[str, str]) -> str:
    found = shutil.which(name, path=environment["PATH"])
    assert found, f"`make cluster-env` puts no {name} on PATH"
    return found


@pytest.fixture(scope="session")
def node(cluster: dict[str, str]) -> str:
    """The name of the cluster's node; tests add nodes that have no machine."""
    return layout.NODE.name


@pytest.fixture(scope="session")
def image(cluster: dict[str, str], request: pytest.FixtureRequest) -> None:
    """The image of this tree, loaded into the node."""
    make_visibly("image", request.config)


@pytest.fixture(scope="session")
def operator_installed(kubectl: Kubectl, helm: Command, image: None) -> Iterator[None]:
    """The operator from the chart; uninstalled at the end, and everything checked gone."""
    if operator_release.is_installed(helm) and not operator_release.is_of_tests(kubectl):
        pytest.fail(
            "the operator is installed on the local cluster already and these tests need it for "
            "themselves: make demo-clean, or helm uninstall it",
            pytrace=False,
        )
    operator_release.clean_leftovers(kubectl, helm)
    before, crds_before = kernel.settings(), operator_release.crds(kubectl)
    had_state = operator_release.HOST_STATE.exists()
    try:
        operator_release.install(kubectl, helm)
    except BaseException:
        operator_release.clean_leftovers(kubectl, helm)
        raise
    yield
    operator_release.uninstall(helm)
    operator_release.assert_gone(kubectl)
    assert kernel.settings() == before, "/sys/kernel/mm/ksm after the uninstall"
    operator_release.force_away_namespaces(kubectl)
    operator_release.delete_kept(kubectl, but=crds_before)
    if not had_state:
        shutil.rmtree(operator_release.HOST_STATE, ignore_errors=True)


@pytest.fixture
def stage(
    kubectl: Kubectl, node: str, operator_installed: None, ksm: dict[str, bytes]
) -> Iterator[Stage]:
    """A test's namespaces, pods and policies; put away at its end."""
    assert kernel.settings() == ksm, "an earlier test left values under /sys changed"
    with Stage(kubectl, node) as mine:
        yield mine


@pytest.fixture
def fleet(stage: Stage) -> Iterator[Fleet]:
    """Nodes without machines of a test's own; they leave at its end."""
    made = Fleet(stage.kubectl, stage.name)
    try:
        yield made
    finally:
        made.leave()


@pytest.fixture(scope="module")
def no_controller(kubectl: Kubectl, operator_installed: None) -> Iterator[None]:
    """The controller stopped, so that it does not tidy up the objects that tests make."""
    operator_release.stop_controller(kubectl)
    yield
    operator_release.start_controller(kubectl)


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Starts controllers."""
    with Nursery() as made:
        yield made


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An etcd and an API server that tests may harm, with what the chart has for a controller."""
    if not (shutil.which("go") or shutil.which("go", path="/usr/local/go/bin:/usr/lib/go/bin")):
        machine.missing("The cluster tier builds Kubernetes with Go", "apt-get install golang-go")
    with ControlPlane(tmp_path_factory.mktemp("control-plane")) as made:
        made.install()
        yield made


@pytest.fixture(scope="session")
def nodes_without_machines(control_plane: ControlPlane) -> Fleet:
    """Nodes of that control plane."""
    fleet = Fleet(control_plane.kubectl, "faults")
    fleet.join(*range(6))
    return fleet


@pytest.fixture
def world(
    control_plane: ControlPlane, nodes_without_machines: Fleet, nursery: Nursery
) -> Iterator[World]:
    """A test's policies on that control plane, with agents that obey, and its controllers."""
    with World(control_plane, nodes_without_machines, nursery) as made:
        yield made


@pytest.fixture
def own_node(
    ksm: dict[str, bytes], control_plane: ControlPlane, tmp_path: Path
) -> Iterator[OwnNode]:
    """A Node of that control plane whose pods run on this machine, without a kubelet."""
    with OwnNode(control_plane.api, tmp_path) as made:
        yield made


@pytest.fixture
def agent_program(
    control_plane: ControlPlane, own_node: OwnNode, tmp_path: Path
) -> Iterator[AgentProgram]:
    """The agent of that Node, not started yet."""
    with (
        kernel.settings_put_back(),
        AgentProgram(control_plane, own_node.name, tmp_path) as made,
    ):
        yield made
