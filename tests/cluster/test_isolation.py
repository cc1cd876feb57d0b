"""A pod outside of the domain comes into the kernel's pool: said, and paused for."""

from cluster.command import condition, wait_until
from cluster.pods import INTRUDE, pod
from cluster.stage import Stage
from support import kernel


def _runs(stage: Stage, value: int, why: str) -> None:
    wait_until(lambda: kernel.counter("run") == value, 30, f"run reads {value}: {why}")


def test_a_pod_outside_the_domain_stops_merging_until_it_goes(stage: Stage) -> None:
    """What the domain promises must not depend on what other tenants' pods choose to do."""
    stage.pods(stage.namespace(), 1)
    policy = stage.policy(ksmd={"cpuLimit": "1"})
    stage.wait_until_ready(policy)
    _runs(stage, 1, "the domain is alone")
    other = stage.namespace("other", labels={})
    stage.kubectl.apply(pod("intruder", other, program=INTRUDE))
    name = f"{other}/intruder"

    _runs(stage, 0, "it is not alone")
    wait_until(
        lambda: [one["pod"] for one in stage.node_status()["foreignMergers"]] == [name],
        20,
        "the KSMNode names it",
    )
    isolated = condition(stage.kubectl.find("ksmnode", stage.node), "Isolated")
    assert (isolated["status"], isolated["reason"]) == ("False", "ForeignMergers")
    wait_until(
        lambda: name in stage.policy_condition(policy, "Isolated").get("message", ""),
        20,
        "the policy names it",
    )
    described = ("describe", "ksmpolicy", policy)
    wait_until(
        lambda: any(
            "ForeignMergers" in line and name in line and "Warning" in line
            for line in stage.kubectl(*described).stdout.splitlines()
        ),
        20,
        "an Event names it",
    )
    assert stage.policy_condition(policy, "Ready")["status"] == "True"

    stage.edit(policy, isolation={"onForeignMerging": "Report"})
    _runs(stage, 1, "it is only reported")
    stage.edit(policy, isolation={"onForeignMerging": "Pause"})
    _runs(stage, 0, "it is paused for again")

    stage.kubectl("delete", "pod", "intruder", "-n", other)
    _runs(stage, 1, "the domain is alone again")
    wait_until(
        lambda: stage.policy_condition(policy, "Isolated").get("status") == "True",
        20,
        "the policy says so",
    )
