"""Processes in a frozen cgroup of version 2, which can be stopped but make no call before the thaw.

Nobody mounts version 2 beside a version 1 that accounts memory; the vm tier's machines have it.
"""

from pathlib import Path

import pytest

from kernel.blocking_calls import read_outcome
from kernel.calls import get_merge
from kernel.conftest import Cgroup, Start, Target, wait_until
from ksm_operator.kernel import Postponed, Tracer
from ksm_operator.kernel.enrol import set_merge


def freeze(cgroup: Cgroup, frozen: int) -> None:
    """Freeze it (1) or thaw it (0), and wait until that is so."""
    (cgroup.directory / "cgroup.freeze").write_text(str(frozen))
    events = cgroup.directory / "cgroup.events"
    wait_until(lambda: f"frozen {frozen}" in events.read_text(), f"frozen {frozen}")


def switches(target: Target) -> list[str]:
    """How often its threads were given a CPU: a target that nobody wakes is not."""
    status = Path(f"/proc/{target.pid}/status").read_text()
    return [line for line in status.splitlines() if "ctxt_switches" in line]


@pytest.mark.parametrize("name", ["read", "futex_endless", "ppoll_endless", "spin"])
def test_frozen_process_is_postponed_and_whole_after_the_thaw(
    name: str, blocking: Path, start: Start, cgroup: Cgroup, tracer: Tracer
) -> None:
    """Stopped while it is frozen, it would be held until the thaw: it must not even be woken."""
    target = start(str(blocking), name, "interruptible")
    cgroup.add(target.pid)
    freeze(cgroup, 1)
    before = switches(target)
    for _ in range(3):
        with pytest.raises(Postponed) as caught:
            tracer.call(target.process, [set_merge(on=True)])
        assert caught.value.reason == "Frozen"
    assert switches(target) == before
    freeze(cgroup, 0)
    assert tracer.call(target.process, [get_merge()]).results == (0,)
    target.popen.send_signal(10)
    outcome = read_outcome(target.line())
    assert (outcome.answer[:2], outcome.state) == ((0, 0) if name == "spin" else (-1, 4), "whole")
