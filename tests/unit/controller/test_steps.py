import itertools
from typing import TYPE_CHECKING, cast

from hypothesis import given
from hypothesis import strategies as st

from ksm_operator.controller import facts
from ksm_operator.controller.nodes import Action, decide
from ksm_operator.controller.steps import Steps, in_turn
from ksm_operator.controller.watch import Watched
from unit.controller.examples import NOW, granted, merging, node, policy, state

if TYPE_CHECKING:
    from ksm_operator.controller.cluster import Cluster
    from ksm_operator.controller.lease import Lease

BIG, SMALL = policy("big"), policy("small")


def test_a_small_policy_does_not_wait_for_a_big_one() -> None:
    """Whoever applies a policy for three nodes sees them taken, whatever else goes on."""
    big = [(node(f"a{n}"), decide(node(f"a{n}"), BIG, None, NOW)) for n in range(100)]
    small = [(node(f"z{n}"), decide(node(f"z{n}"), SMALL, None, NOW)) for n in range(3)]
    order = [one.name for one, _ in in_turn([*big, *small])]
    assert max(order.index(name) for name in ("z0", "z1", "z2")) < 6


def test_releases_go_first() -> None:
    """Somebody waits for each of them."""
    leaving = node("z")
    release = decide(leaving, SMALL, state("z", granted(BIG), merging(BIG)), NOW)
    assert release.verb == "Release"
    grants = [(node(f"a{n}"), decide(node(f"a{n}"), SMALL, None, NOW)) for n in range(9)]
    assert in_turn([*grants, (leaving, release)])[0][0] is leaving


@given(st.lists(st.sampled_from([BIG, SMALL, None]), max_size=20))
def test_nobody_is_forgotten(owners: list[object]) -> None:
    """Taking turns loses no node and takes none twice."""
    todo = []
    for number, owner in enumerate(owners):
        one = node(f"n{number}")
        spec = granted(owner) if isinstance(owner, facts.Policy) else None
        made = state(one.name, spec).spec if spec else None
        todo.append((one, Action("Release" if number % 3 else "Create", one.name, "", made)))
    assert sorted(one.name for one, _ in in_turn(todo)) == sorted(one.name for one, _ in todo)


def test_a_walk_ends_in_time() -> None:
    """While thousands of nodes are walked people edit policies, and want to see progress."""
    nodes = Watched(cast("Cluster", None), "/nodes", facts.node, lambda _old, _new: None)
    states = Watched(cast("Cluster", None), "/states", facts.node_state, lambda _old, _new: None)
    clock = itertools.chain([0.0], itertools.repeat(5.0))
    # Nobody is asked anything: there is no cluster.
    steps = Steps(cast("Cluster", None), cast("Lease", None), nodes, states, lambda: next(clock))
    fleet = [node(f"n{n}") for n in range(3)]
    owners = {one.name: BIG for one in fleet}
    walked = steps.walk(fleet, {}, owners, NOW, lambda _action: True)
    assert (walked.taken, walked.failed, walked.left) == ((), 0, 3)
