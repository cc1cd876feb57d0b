"""What is merged costs no pod its life when it is written to, by the limits of real pods."""

from cluster.pods import all_merge, assert_unharmed, processes
from cluster.refilling import Refilling, refilling
from cluster.stage import Stage
from ksm_operator.kernel import page_size
from support import kernel

STEADY = {
    "tuning": "Fixed",
    "pagesToScan": 2000,
    "sleepMilliseconds": 20,
    "smartScan": False,
    "cpuLimit": "1",
}
"""Scans go on for ever and pass nothing over: what is written anew merges again within seconds."""


def test_a_payer_refills_again_and_again(stage: Stage) -> None:
    """Who is charged for what two share is charged for a copy too, and is not to be killed."""
    namespace = stage.namespace()
    names = ("one", "two")
    stage.kubectl.apply(*(refilling(name, namespace) for name in names))

    def shared() -> int:
        return kernel.counter("pages_sharing") * page_size()

    pods = Refilling(stage.kubectl, namespace, names, shared, seconds=60, poll=3)
    pods.wait_until_filled()
    before = processes(stage.kubectl, namespace)
    policy = stage.policy(ksmd=STEADY, enrollment={"hugePages": "Split"})
    stage.wait_until_ready(policy)
    assert all_merge(before)
    for times in (2, 3):
        pods.wait_until_shared()
        pods.refill(times)
    pods.wait_until_shared()
    assert_unharmed(stage.kubectl, namespace, before)
