"""Who manages ksmd before us."""

import pytest

from ksm_operator.agent.foreign import Candidate
from ksm_operator.agent.managers import is_of_a_manager, who_manages
from ksm_operator.agent.placement import place
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


@pytest.mark.parametrize(
    ("command", "on_the_host", "in_a_pod"),
    [("ksmtuned", True, False), ("virt-handler", True, True), ("bash", False, False)],
)
def test_a_pod_cannot_keep_a_node_from_being_taken(
    command: str, *, on_the_host: bool, in_a_pod: bool
) -> None:
    """Any process may call itself ksmtuned; KubeVirt's handler runs in a pod, and is but named."""
    assert is_of_a_manager(host_process(command, "/system.slice/x.service")) is on_the_host
    path = f"/kubepods/besteffort/pod00000000-1111-2222-3333-444444444444/{'ab' * 32}"
    pod = Candidate(Process(78, 1), command, path, place(path))
    assert pod.placement is not None
    assert is_of_a_manager(pod) is in_a_pod
