"""The figure that the agent reports, against a phantom charge that is known."""

from kernel.conftest import Cgroup, Holders, wait_until
from kernel.pods import MIB, SIZE, merged_pods
from ksm_operator.agent.phantom import PhantomCharge
from ksm_operator.kernel import Hierarchy, Tracer


def test_what_a_refill_leaves_behind(
    holder: Holders, cgroup: Cgroup, hierarchy: Hierarchy, ksmd: None, tracer: Tracer
) -> None:
    """It is none while the payer maps its pages, and all of them when it has dropped them."""
    pods = merged_pods(holder, tracer, cgroup.child("one"), cgroup.child("two"))
    processes = [pods.paying.process, pods.sharing.process]

    def measured() -> int:
        found: list[int] = []
        charge = PhantomCharge(hierarchy)

        def has_looked() -> bool:
            size = charge.read(processes, anything_merged=True)
            found.extend([] if size is None else [size])
            return bool(found)

        wait_until(has_looked, "a look")
        return found[0]

    assert measured() < MIB
    pods.paying.tell("refill")
    assert pods.paying.line() == "intact"
    assert SIZE * MIB * 3 // 4 < measured() <= (SIZE + 4) * MIB


def test_nothing_merged_is_no_look(hierarchy: Hierarchy) -> None:
    """A node that merges nothing pays nothing for the figure."""
    assert PhantomCharge(hierarchy).read([], anything_merged=False) == 0
