"""Who manages ksmd before us."""

import pytest

from ksm_operator.agent.foreign import Candidate
from ksm_operator.agent.managers import who_manages
from ksm_operator.kernel import Process


def host_process(command: str, cgroup: str = "/") -> Candidate:
    """A process of the host that merges."""
    return Candidate(Process(77, 1), command, cgroup, None)


@pytest.mark.parametrize(
    ("run", "host", "commands", "words"),
    [
        (1, [], set(), "stop that manager"),
        (1, [], {"virt-handler"}, "KubeVirt CR's ksmConfiguration"),
        (1, [], {"harvester-node-"}, "Ksmtuned object"),
        (1, [], {"tuned"}, "TuneD profile"),
        (1, [], {"ksmtuned"}, "systemctl disable --now ksmtuned"),
        (0, [], {"ksmtuned"}, "systemctl disable --now ksmtuned"),
        (0, [host_process("qemu-system-x86")], set(), "mem-merge=off"),
        (0, [host_process("redis", "/system.slice/redis.service")], set(), "in redis.service"),
        (0, [host_process("redis"), host_process("other")], set(), "redis (pid 77) and 1 more"),
    ],
)
def test_a_manager_is_named_with_what_to_do(
    run: int, host: list[Candidate], commands: set[str], words: str
) -> None:
    """Two that write to the same files fight for ever; the one who was there first wins."""
    found = who_manages(run, host, commands)
    assert words in found
    assert "hand" in found


@pytest.mark.parametrize("commands", [set(), {"tuned"}, {"virt-handler"}, {"harvester-node-"}])
def test_a_program_that_may_leave_ksmd_alone_is_no_manager(commands: set[str]) -> None:
    """TuneD runs on every machine of some distributions, and KubeVirt's handler on its nodes."""
    assert who_manages(0, [], commands) == ""
