from ksm_operator.controller import facts
from unit.controller.examples import node, policy, state


def test_unreadable_spec_is_told_with_its_field() -> None:
    """Whoever reads the policy's status must find the field."""
    assert policy("web", {"mode": "Hibernate"}).unreadable.startswith("spec.mode: ")
    assert "spec.ksmd.cpuLimit" in policy("web", {"ksmd": {"cpuLimit": "lots"}}).unreadable
    assert policy("web").unreadable == ""


def test_unknown_desired_state_is_no_spec() -> None:
    """A newer version's word must be taken for neither of the known ones."""
    assert state(spec={"desiredState": "Hibernating"}).spec is None


def test_odd_status_is_an_empty_one() -> None:
    """What an agent of another version wrote must never pass for a release."""
    odd = state(spec={"desiredState": "Released"}, status={"observedGeneration": "soon"})
    assert odd.status.observed_generation is None
    assert not odd.released


def test_architecture_comes_from_the_kubelet_where_labels_are_missing() -> None:
    """The well-known labels can be removed; the kubelet's own report cannot."""
    raw = {
        "metadata": {
            "name": "n",
            "uid": "u",
            "resourceVersion": "1",
            "creationTimestamp": "2026-11-23T06:00:00Z",
        },
        "status": {"nodeInfo": {"operatingSystem": "linux", "architecture": "arm64"}},
    }
    bare = facts.node(raw)
    assert (bare.operating_system, bare.architecture, bare.ready) == ("linux", "arm64", False)
    assert node().architecture == "amd64"
