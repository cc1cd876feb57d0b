"""How many nodes a policy takes at once, so that what goes wrong goes wrong on a few.

A node is taken when it is granted to the policy, or when its present owner is told to release it
for the policy. Giving back what nobody wants any longer is never held up.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Literal

from ksm_operator.api import node_count
from ksm_operator.controller.facts import Node, NodeState, Policy
from ksm_operator.controller.nodes import labelled
from ksm_operator.controller.plan import Plan
from ksm_operator.controller.progress import granted_to, joining, under_way, warning

Place = Literal["begun", "at once", "released", "free", "others", "absent", "nowhere"]
"""Where a node stands in a policy's rollout.

It has begun and holds a place; needs none; queues as one that was released, that is free or that
another policy has; is not Ready and waits until it is; or nothing can be done with it at all.
"""
_QUEUE: Final[tuple[Place, ...]] = ("released", "free", "others")


@dataclass(frozen=True, slots=True)
class Turn:
    """Which of its nodes a policy may not take yet.

    Attributes:
        waiting: nodes whose turn has not come, sorted.
        begun: nodes that have not come to the policy yet, each of which holds a place.
        stopped: why no turn comes: node name to what its agent says is not as asked.
    """

    waiting: tuple[str, ...] = ()
    begun: tuple[str, ...] = ()
    stopped: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class World:
    """What is known of the nodes at one moment.

    Attributes:
        nodes: every node, by name.
        states: every KSMNode, by name.
        now: the present time.
    """

    nodes: Mapping[str, Node]
    states: Mapping[str, NodeState]
    now: datetime


def take_turns(
    planned: Plan, policies: Iterable[Policy], world: World
) -> tuple[Plan, dict[str, Turn]]:
    """Return who owns what for now, and each policy's turn by its uid.

    A node whose turn has not come stays with its present owner while that one lives and selects it;
    else it has none.

    Args:
        planned: who shall own what in the end.
        policies: every policy.
        world: the nodes, of which `planned` names no others.
    """
    known = {policy.uid: policy for policy in policies}
    owned: dict[str, list[str]] = {}
    for name in sorted(planned.owners):
        owned.setdefault(planned.owners[name].uid, []).append(name)
    owners = dict(planned.owners)
    lost = {uid: dict(names) for uid, names in planned.lost.items()}
    turns = {}

    def holder(name: str) -> str:
        state = world.states.get(name)
        return (state.owner_uid if state is not None else None) or ""

    def contested(name: str) -> bool:
        return name in planned.lost.get(holder(name), ())

    for uid, names in owned.items():
        turns[uid] = turn = _turn(known[uid], names, contested, world)
        for name in turn.waiting:
            if contested(name):
                del lost[holder(name)][name]
                owners[name] = known[holder(name)]
            else:
                del owners[name]
    return replace(planned, owners=owners, lost=lost), turns


def _turn(
    policy: Policy,
    owned: Iterable[str],
    contested: Callable[[str], bool],
    world: World,
) -> Turn:
    """Tell which of the nodes that it shall own a policy may not take yet.

    Nodes that were released go first, then the other free ones, then those that another policy
    still has, each in the order of their names. A node that is not Ready waits until it is; one
    that has begun holds its place meanwhile: for all one knows it is because it has begun.
    """
    if policy.spec is None:
        return Turn()
    places: dict[Place, list[str]] = {}
    stopped: dict[str, str] = {}
    for name in owned:
        node, state = world.nodes[name], world.states.get(name)
        place = _place(policy, node, state, contested=contested(name), now=world.now)
        places.setdefault(place, []).append(name)
        if state is not None and granted_to(policy, state) and (why := warning(state)):
            stopped[name] = why
    begun = places.get("begun", [])
    count = sum(map(len, places.values())) - len(places.get("nowhere", ()))
    most = 0 if stopped else node_count(policy.spec.rollout.max_concurrent_nodes, count)
    queue = [name for place in _QUEUE for name in places.get(place, ())]
    waiting = [*queue[max(0, most - len(begun)) :], *places.get("absent", ())]
    return Turn(tuple(sorted(waiting)), tuple(begun), stopped)


def _place(  # noqa: PLR0911 - one line per answer
    policy: Policy, node: Node, state: NodeState | None, *, contested: bool, now: datetime
) -> Place:
    if node.deleting or (state is not None and _is_of_another_time(node, state)):
        return "nowhere"
    if state is not None and granted_to(policy, state):
        return "begun" if under_way(state) else "at once"
    if joining(policy, node, now) or (state is None and labelled(node)):
        return "at once"
    if state is None or state.released:
        return "absent" if not node.ready else "free" if state is None else "released"
    if state.asked_to_release:
        for_this_one = contested or state.owner_uid == policy.uid
        return "begun" if for_this_one and node.ready and under_way(state) else "at once"
    if not contested:
        return "at once"
    return "others" if node.ready else "absent"


def _is_of_another_time(node: Node, state: NodeState) -> bool:
    """Tell whether nothing can be written to a KSMNode: no step waits for a turn there."""
    return state.deleting or state.spec is None or state.node_uid != node.uid
