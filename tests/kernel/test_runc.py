"""Real containers: confined, limited, on either version of cgroups."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from kernel.conftest import intact
from kernel.containers import Runtime, require_runtime
from kernel.test_release import MIB, merge, mergeable_ranges, merged
from ksm_operator.kernel import Hierarchy, Tracer, memory_headroom, release
from support import kernel


@pytest.fixture
def runtime(
    ksm: None, hierarchy: Hierarchy, tmp_path: Path, holder_program: Path
) -> Iterator[Runtime]:
    """What starts containers; they are removed with the test."""
    made = Runtime(require_runtime("runc"), holder_program, tmp_path, hierarchy)
    yield made
    for container in made.containers:
        container.kill()


def test_containers_merge_and_are_released_at_their_limit(
    runtime: Runtime, hierarchy: Hierarchy, ksmd: None, tracer: Tracer
) -> None:
    """What the product is for: no filter and no limit of a container's stands in the way."""
    salt = secrets.token_hex(8)
    one, two = (runtime.run("32", salt, limit=64 * MIB) for _ in range(2))
    merge(tracer, one, two, mebibytes=31)
    kernel.write_setting("run", 0)
    # The page scanned later is the one freed, so one of the two gets all of the room.
    poorer, other = sorted((one, two), key=lambda container: container.cgroup.usage())
    before = poorer.cgroup.usage()
    assert before < 24 * MIB, "no container got anything from merging"
    runtime.limit(poorer, before + 12 * MIB)

    def room() -> int | None:
        return memory_headroom(hierarchy, poorer.cgroup.directory)

    progress = release(poorer.process, tracer, room)
    assert not progress.done
    assert progress.reason == "NoHeadroom"
    assert progress.remaining_bytes > 0

    runtime.limit(poorer, 64 * MIB)
    for container, headroom in ((poorer, room), (other, lambda: None)):
        assert release(container.process, tracer, headroom).done
        assert not kernel.merge_any(container.pid)
        assert merged(container) == 0
        assert mergeable_ranges(container.pid) == 0
    for container in (one, two):
        assert intact(container)
        assert container.cgroup.oom_kills() == 0
