from prometheus_client import generate_latest

from ksm_operator.controller.metrics import FLEET, REGISTRY, Shown
from ksm_operator.controller.plan import Plan
from ksm_operator.controller.status import fleet, observe
from unit.controller.examples import NOW, condition, granted, merging, node, policy, state

WEB = policy()


def scraped() -> list[str]:
    """What Prometheus gets, without the comments."""
    lines = generate_latest(REGISTRY).decode().splitlines()
    return [line for line in lines if not line.startswith("#")]


def test_a_policy_is_shown_by_nodes_conditions_and_saving() -> None:
    """An alert on a policy must not need a program that reads the API."""
    one = state(spec=granted(WEB), status=merging(WEB))
    known = fleet(Plan({"n1": WEB}), {}, {"n1": node()}, {"n1": one})
    status = {
        "conditions": [condition("Ready", "True", "AllNodesReady", 1)],
        "memory": {"savedBytes": 5, "estimatedSavedBytes": 7},
    }
    try:
        FLEET.show([one], [Shown(WEB.name, observe(WEB, known, NOW), status)])
        lines = scraped()
    finally:
        FLEET.show((), ())
    assert 'ksm_operator_nodes{reason="Merging"} 1.0' in lines
    assert 'ksm_operator_policy_nodes{policy="web",state="Ready"} 1.0' in lines
    assert 'ksm_operator_policy_nodes{policy="web",state="Blocked"} 0.0' in lines
    judged = 'condition="Ready",policy="web",reason="AllNodesReady",status="True"'
    assert f"ksm_operator_policy_condition{{{judged}}} 1.0" in lines
    assert 'ksm_operator_policy_saved_bytes{policy="web"} 5.0' in lines
    assert 'ksm_operator_policy_estimated_saved_bytes{policy="web"} 7.0' in lines


def test_a_policy_that_is_gone_is_not_shown() -> None:
    """Its last condition would fire an alert for ever."""
    FLEET.show((), ())
    assert not [line for line in scraped() if "policy=" in line]
