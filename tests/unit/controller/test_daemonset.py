import pytest

from ksm_operator.controller.daemonset import TemplateError, agent_daemonset

DEPLOYMENT = {"metadata": {"name": "c", "namespace": "ksm", "uid": "uid-c"}}
TEMPLATE = """
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent, labels: {a: b}}
spec: {}
"""


def test_agents_go_with_the_deployment() -> None:
    """Agents that outlive the operator would merge with nobody to release."""
    made = agent_daemonset(TEMPLATE, DEPLOYMENT)
    assert made["metadata"]["ownerReferences"][0]["uid"] == "uid-c"
    assert made["metadata"]["namespace"] == "ksm"
    assert made["metadata"]["labels"] == {"a": "b"}


@pytest.mark.parametrize("text", ["", "[", "kind: DaemonSet", "apiVersion: v1\nkind: Pod"])
def test_anything_else_is_refused(text: str) -> None:
    """A mistake in the chart must be told by the controller, not by an odd object."""
    with pytest.raises(TemplateError):
        agent_daemonset(text, DEPLOYMENT)
