from ksm_operator.controller.reported import Judged, Reported, reported
from unit.controller.examples import merging, policy, state

WEB = policy()


def test_what_decisions_need_is_kept() -> None:
    """Figures for the policy's status, and words for its conditions."""
    kept = reported(merging(WEB, generation=3))
    assert (kept.observed_generation, kept.owner_uid) == (3, WEB.uid)
    assert (kept.pods_matched, kept.pods_merging, kept.pods_skipped) == (4, 3, 1)
    assert (kept.saved_bytes, kept.profit_bytes, kept.ksmd_milli_cpu) == (1 << 30, 1 << 29, 20)
    assert kept.conditions[0] == Judged("Ready", "True", "Merging", "", 3)


def test_an_agent_that_said_nothing_is_no_released_node() -> None:
    """Silence is no proof of anything."""
    assert reported({}) == Reported()
    assert not state(spec={"desiredState": "Released"}).released


def test_nodes_of_one_policy_share_what_they_are_asked() -> None:
    """Thousands of copies of the same selectors would be most of the controller's memory."""
    asked = {"podSelector": {"matchLabels": {"app": "web"}}}
    one, other = state("n1", {"policy": asked}), state("n2", {"policy": asked})
    assert one.spec is not None
    assert other.spec is not None
    assert one.spec.policy is other.spec.policy
