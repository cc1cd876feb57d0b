"""A runtime's init, enrolled while it waits to become the container's program."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.agents import one_container
from kernel.containers import Runtime, require_runtime
from kernel.test_release import MIB
from ksm_operator.kernel import Hierarchy, KernelFeatures, Tracer
from support import kernel


@pytest.fixture(params=["runc", "crun"])
def runtime(
    request: pytest.FixtureRequest,
    ksm: None,
    hierarchy: Hierarchy,
    tmp_path: Path,
    holder_program: Path,
) -> Iterator[Runtime]:
    """What makes containers as containerd's shim or CRI-O's conmon has it do so."""
    made = Runtime(require_runtime(request.param), holder_program, tmp_path, hierarchy)
    yield made
    for container in made.containers:
        container.kill()


def test_a_program_merges_from_its_first_instruction(
    runtime: Runtime, hierarchy: Hierarchy, prctl: KernelFeatures, tracer: Tracer
) -> None:
    """Each runtime prepares its init in another way, and none may shake the enrolment off."""
    if not prctl.exec_inherits:
        pytest.skip("this kernel drops merging on exec: Linux 6.7 or later is needed")
    container = runtime.create("1", "salt", limit=64 * MIB)
    program = Path(f"/proc/{container.pid}/exe")
    before = program.readlink()
    with one_container(hierarchy, prctl, tracer, container.cgroup) as node:
        node.until(lambda: kernel.merge_any(container.pid), "the runtime's init is enrolled")

        # From here on nobody enrols: what merges has it from the init.
        runtime.start(container)

        assert program.readlink() != before
        assert kernel.merge_any(container.pid)
    assert container.cgroup.oom_kills() == 0
