"""What the chart's RBAC gives the operator's accounts, asked of the API server."""

from typing import Final

import pytest

from cluster.command import Kubectl

pytestmark = pytest.mark.cluster

NAMESPACE: Final = "ksm-operator"


@pytest.mark.parametrize(
    ("part", "question"),
    [
        ("agent", "get secrets"),
        ("agent", "patch ksmnodes"),
        ("agent", "patch pods"),
        ("agent", "create pods --subresource=exec"),
        ("agent", "get nodes"),
        ("agent", "create events"),
        ("controller", "get secrets"),
        ("controller", "list pods"),
        ("controller", "create pods"),
        ("controller", "delete nodes"),
        ("controller", "patch nodes --subresource=status"),
        ("controller", "patch ksmnodes --subresource=status"),
        ("controller", "create ksmpolicies"),
        ("controller", "delete ksmpolicies"),
        ("controller", "create daemonsets -A"),
        ("controller", "patch deployments"),
    ],
)
def test_accounts_have_no_right_that_they_do_not_use(
    kubectl: Kubectl, operator_installed: object, part: str, question: str
) -> None:
    """The chart's RBAC alone, in the operator's own namespace, must say no to these."""
    account = f"--as=system:serviceaccount:{NAMESPACE}:ksm-operator-{part}"
    answer = kubectl("auth", "can-i", *question.split(), "-n", NAMESPACE, account, check=False)
    assert answer.stdout.strip() == "no"
