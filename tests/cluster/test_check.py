"""`helm test`, as an administrator runs it after an installation."""

import pytest

from cluster.command import Command, Kubectl
from cluster.operator_release import NAMESPACE, RELEASE

pytestmark = pytest.mark.cluster


def test_a_good_installation_passes(
    helm: Command, kubectl: Kubectl, operator_installed: object
) -> None:
    """The check runs with the controller's rights in a pod: a missing right would fail it."""
    said = helm("test", RELEASE, "--namespace", NAMESPACE, "--timeout", "110s").stdout
    assert "Phase:          Succeeded" in said, said
    assert kubectl.find("pod", "ksm-operator-check", "-n", NAMESPACE) is None
