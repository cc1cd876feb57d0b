"""What the agent can find out only while ksmd is at work for it."""

import pytest

from kernel.conftest import wait_until
from ksm_operator.agent.exec_trial import ExecTrial
from ksm_operator.agent.host import Host, boot_time
from ksm_operator.kernel import Helper, Hierarchy, KsmSysfs, probe


def test_whether_exec_keeps_merging_is_found_out_beside_other_work(
    ksmd: None, hierarchy: Hierarchy
) -> None:
    """The loop only asks now and then; what it learns is in the status from then on."""
    features = probe()
    if not features.exec_inherits:
        pytest.skip("this kernel drops merging on exec: Linux 6.7 or later is needed")
    assert "ExecMergesUnknown" in features.names()
    host = Host(KsmSysfs(), hierarchy, features, Helper(), boot_time(), None)
    trial = ExecTrial(host)

    def is_known() -> bool:
        trial.go_on()
        return host.features.exec_merges is not None

    wait_until(is_known, "the answer")
    assert "ExecMergesUnknown" not in host.features.names()
