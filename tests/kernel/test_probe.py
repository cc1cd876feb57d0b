"""What the probe finds agrees with what each version of Linux brings."""

import contextlib
import platform
import re

import pytest

from kernel.conftest import Cgroup, Start, Target
from ksm_operator.kernel import (
    Hierarchy,
    KernelFeatures,
    Tracer,
    Unsupported,
    enrol,
    memory_headroom,
)
from support import kernel


def version() -> tuple[int, int]:
    """This kernel's, by its name."""
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    assert found
    return int(found[1]), int(found[2])


@pytest.mark.parametrize(
    ("feature", "since"),
    [
        ("has_general_profit", (6, 4)),
        ("has_smart_scan", (6, 7)),
        ("has_advisor", (6, 8)),
        ("exec_inherits", (6, 7)),
        ("ksm_stat_shows_flag", (6, 14)),
    ],
)
def test_feature(feature: str, since: tuple[int, int], features: KernelFeatures) -> None:
    """The probe tries; the version is only what this test judges it by."""
    assert getattr(features, feature) == (version() >= since)


def test_method(features: KernelFeatures) -> None:
    """Enrolment is offered where the call is known and we can make others do it."""
    assert features.has_ksm
    if features.machine == "x86_64":
        assert features.method == ("Prctl" if version() >= (6, 4) else "Madvise")
    if features.method is None:
        assert features.unsupported
        assert features.machine in features.unsupported


def enrol_with_a_tracer(target: Target) -> None:
    """Where the machine's registers are not known, there is no tracer either."""
    with contextlib.closing(Tracer()) as tracer:
        enrol(target.process, tracer)


def test_the_call_is_made_or_said_to_be_impossible(start: Start, features: KernelFeatures) -> None:
    """A kernel without the means costs a program nothing but a sentence."""
    can = features.method == "Prctl"
    target = start("sh", "-c", "echo ready; read line; echo $line")
    target.wait_for_state("S")
    with contextlib.nullcontext() if can else pytest.raises(Unsupported):
        enrol_with_a_tracer(target)
    assert bool(kernel.merge_any(target.pid)) == can
    target.tell("unharmed")
    assert target.line() == "unharmed"


def test_headroom_of_a_limited_cgroup(cgroup: Cgroup, hierarchy: Hierarchy) -> None:
    """A limit leaves its room, at whichever level it is set and in either version's files."""
    below = cgroup.child("below")
    cgroup.limit(64 << 20)
    room = memory_headroom(hierarchy, below.directory)
    assert room is not None
    assert 60 << 20 <= room <= 64 << 20
    below.limit(16 << 20)
    room = memory_headroom(hierarchy, below.directory)
    assert room is not None
    assert room <= 16 << 20
