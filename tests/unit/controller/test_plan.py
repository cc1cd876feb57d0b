from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.controller.facts import Policy
from ksm_operator.controller.plan import Plan, eligible, plan
from unit.controller.examples import EARLIER, node, policy

LATER = "2026-11-23T07:00:00Z"
POOLS = ("a", "b", "c")
NODES = [node(f"n{index}", labels={"pool": POOLS[index % 3]}) for index in range(6)]


def names(planned: Plan) -> dict[str, str]:
    """Node name to owner's name."""
    return {name: owner.name for name, owner in planned.owners.items()}


def pool(*pools: str) -> dict[str, object]:
    """A spec that selects nodes by pool."""
    expression = {"key": "pool", "operator": "In", "values": list(pools)}
    return {"nodeSelector": {"matchExpressions": [expression]}}


@st.composite
def policies(draw: st.DrawFn) -> list[Policy]:
    """Policies that contest each other's nodes."""
    count = draw(st.integers(0, 5))
    return [
        policy(
            f"p{index}",
            {
                "priority": draw(st.integers(0, 2)),
                **pool(*draw(st.sets(st.sampled_from(POOLS), min_size=1))),
            },
            created=draw(st.sampled_from([EARLIER, LATER])),
            deleted=draw(st.sampled_from([None, None, None, LATER])),
        )
        for index in range(count)
    ]


holders = st.dictionaries(
    st.sampled_from([one.name for one in NODES]),
    st.sampled_from([None, "uid-gone", *(f"uid-p{index}" for index in range(5))]),
)


def held(planned: Plan) -> dict[str, str | None]:
    """What is there once a plan was carried out."""
    return {name: owner.uid for name, owner in planned.owners.items()}


@given(policies(), holders, st.randoms())
def test_plan_does_not_depend_on_order(
    some: list[Policy], present: dict[str, str | None], random: object
) -> None:
    """The API server lists in any order; a node must not move because of it."""
    shuffled, nodes = some[::-1], NODES[::-1]
    assert names(plan(some, NODES, present)) == names(plan(shuffled, nodes, present))


@given(policies(), holders)
def test_each_owner_selects_its_node_and_outranks_the_losers(
    some: list[Policy], present: dict[str, str | None]
) -> None:
    """Only a living policy that selects the node, with the highest priority, may own it."""
    planned = plan(some, NODES, present)
    by_uid = {one.uid: one for one in some}
    for name, owner in planned.owners.items():
        labels = next(one.labels for one in NODES if one.name == name)
        assert owner.deleted_at is None
        assert owner.spec is not None
        assert owner.spec.node_selector is not None
        assert owner.spec.node_selector.admits(labels)
        losers = [by_uid[uid] for uid, lost in planned.lost.items() if name in lost]
        assert all(loser.spec and loser.spec.priority <= owner.spec.priority for loser in losers)


@given(policies(), holders)
def test_carried_out_plan_is_final(some: list[Policy], present: dict[str, str | None]) -> None:
    """Planning again on what the plan brought about must move nothing: no ping-pong."""
    first = plan(some, NODES, present)
    assert names(plan(some, NODES, held(first))) == names(first)


@given(policies(), holders, st.sampled_from(POOLS), st.integers(-1, 0))
def test_new_policy_of_no_higher_priority_takes_no_owned_node(
    some: list[Policy], present: dict[str, str | None], where: str, priority: int
) -> None:
    """A node that has an owner stays with it, whatever equal policy comes along."""
    before = plan(some, NODES, present)
    newcomer = policy("a-newcomer", {"priority": priority, **pool(where)}, created=EARLIER)
    after = names(plan([*some, newcomer], NODES, held(before)))
    assert {name: after[name] for name in before.owners} == names(before)


@given(policies(), holders, st.sampled_from(POOLS))
def test_edit_of_an_unrelated_policy_moves_no_node(
    some: list[Policy], present: dict[str, str | None], where: str
) -> None:
    """What a policy that selects none of a pool's nodes does is nothing to that pool."""
    bystander = policy("bystander", {"priority": 9, **pool(where)})
    edited = policy("bystander", {"priority": 0, "mode": "Paused", **pool(where)}, generation=2)
    before = plan([*some, bystander], NODES, present)
    after = names(plan([*some, edited], NODES, held(before)))
    elsewhere = {one.name for one in NODES if one.labels["pool"] != where}
    assert {name: after.get(name) for name in elsewhere} == {
        name: names(before).get(name) for name in elsewhere
    }


@pytest.mark.parametrize(
    ("some", "present", "winner"),
    [
        (
            [policy("old"), policy("high", {"priority": 1}, created=LATER)],
            {"n1": "uid-old"},
            "high",
        ),
        ([policy("old"), policy("holder", created=LATER)], {"n1": "uid-holder"}, "holder"),
        ([policy("new", created=LATER), policy("old")], {}, "old"),
        ([policy("b"), policy("a")], {}, "a"),
        (
            [policy("going", deleted=LATER), policy("new", created=LATER)],
            {"n1": "uid-going"},
            "new",
        ),
    ],
)
def test_rank(some: list[Policy], present: Mapping[str, str | None], winner: str) -> None:
    """Priority, then the present owner, then age, then name; a deleted policy owns nothing."""
    assert names(plan(some, [node()], present)) == {"n1": winner}


def test_recreated_policy_of_the_same_name_is_another_owner() -> None:
    """Its uid differs, so it does not inherit what its namesake held."""
    again = policy("web", uid="uid-web-2", created=LATER)
    other = policy("other")
    assert names(plan([again, other], [node()], {"n1": "uid-web"})) == {"n1": "other"}


def test_unreadable_policy_keeps_what_it_has_and_takes_nothing() -> None:
    """A field of a newer version must not cost a node its owner when the controller is older."""
    unreadable = policy("newer", {"mode": "Whatever"})
    assert unreadable.spec is None
    planned = plan([unreadable, policy("web")], [node("n1"), node("n2")], {"n1": "uid-newer"})
    assert names(planned) == {"n1": "newer", "n2": "web"}
    assert planned.lost == {"uid-web": {"n1": "newer"}}


@pytest.mark.parametrize(
    ("labels", "taints", "can"),
    [
        ({}, (), True),
        ({"kubernetes.io/arch": "arm64"}, (), True),
        ({"kubernetes.io/arch": "s390x"}, (), False),
        ({"kubernetes.io/os": "windows"}, (), False),
        ({"type": "virtual-kubelet"}, (), False),
        ({}, ("virtual-kubelet.io/provider",), False),
        ({"eks.amazonaws.com/compute-type": "fargate"}, (), False),
        ({"ksm-operator.dev/merge": "disabled"}, (), False),
        ({"ksm-operator.dev/merge": "enabled"}, (), True),
    ],
)
def test_eligible(labels: dict[str, str], taints: tuple[str, ...], can: bool) -> None:  # noqa: FBT001 - a column of the table
    """An agent that cannot run on a node could never release it; an administrator may say no."""
    assert eligible(node(labels=labels, taints=taints)) is can
