"""Objects that another version of the operator wrote: taken on, or left alone."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from cluster.api import KSM_NODES, KSM_POLICIES, NODES, Api, ApiFailure
from cluster.command import condition, holds_for, wait_until
from cluster.operator_release import AGENT_LABEL
from cluster.world import World

CRDS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
QUIET_SECONDS: Final = 3.0
CONTROLLER: Final = "ksm-operator-controller"

Schema = dict[str, Any]


@contextmanager
def _kind_as_in_another_version(
    api: Api, kind: str, change: Callable[[Schema], None], sample: str, shows: Callable[[], bool]
) -> Iterator[None]:
    """Change a kind's schema, until the end.

    Args:
        api: where it is.
        kind: the plural.
        change: given the schemas of an object's fields.
        sample: what the change is, for people.
        shows: whether the API server goes by the changed schema already.
    """
    path = f"{CRDS}/{kind}.ksm-operator.dev"
    before = api.get(path)
    changed = copy.deepcopy(before)
    for version in changed["spec"]["versions"]:
        change(version["schema"]["openAPIV3Schema"]["properties"])
    api.replace(path, changed)
    try:
        wait_until(shows, 30, sample)
        yield
    finally:
        present = api.get(path)
        api.replace(path, {**present, "spec": before["spec"]})


def _without_rollout(properties: Schema) -> None:
    del properties["spec"]["properties"]["rollout"]


def _with_another_state(properties: Schema) -> None:
    properties["spec"]["properties"]["desiredState"]["enum"].append("Hibernating")


def _is_accepted(api: Api, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """What would become of an object; empty if it is refused."""
    try:
        return api.create(f"{path}?dryRun=All", body)
    except ApiFailure:
        return {}


def _condition_as_of_old(kind: str) -> dict[str, Any]:
    return {
        "type": kind,
        "status": "True",
        "reason": "AsOfOld",
        "message": "written by another version",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }


def _ksm_node(world: World, number: int, policy: str, state: str) -> dict[str, Any]:
    """A KSMNode with no more than every version has."""
    name = world.node(number)
    node = world.api.get(f"{NODES}/{name}")
    owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": node["metadata"]["uid"]}
    found = world.api.get(world.path(policy))["metadata"]
    return {
        "apiVersion": "ksm-operator.dev/v1alpha1",
        "kind": "KSMNode",
        "metadata": {"name": name, "ownerReferences": [owner]},
        "spec": {
            "owner": {"name": found["name"], "uid": found["uid"], "generation": 1},
            "desiredState": state,
        },
    }


def test_objects_of_an_older_version_are_taken_on(world: World) -> None:
    """An upgrade meets what the last version left, in whatever state it was."""
    api = world.api
    old = world.manifest("old", 0, 1)
    with _kind_as_in_another_version(
        api,
        "ksmpolicies",
        _without_rollout,
        "spec.rollout is unknown",
        lambda: "rollout" not in (_is_accepted(api, KSM_POLICIES, old) or old)["spec"],
    ):
        uid = api.create(KSM_POLICIES, old)["metadata"]["uid"]
    body = {"apiVersion": old["apiVersion"], "kind": old["kind"], "metadata": {}}
    for manager, kind in ((CONTROLLER, "Enrolled"), ("somebody", "Looked")):
        status = {"conditions": [_condition_as_of_old(kind)]}
        api.apply(f"{world.path('old')}/status", manager, {**body, "status": status})
    # Its agent is there and its processes merge; nothing but the owner is written down.
    api.create(KSM_NODES, _ksm_node(world, 0, "old", "Merging"))
    api.merge(f"{NODES}/{world.node(0)}", {"metadata": {"labels": {AGENT_LABEL: "true"}}})
    wait_until(lambda: world.story(0) == [uid], 30, "processes are enrolled")

    controller = world.controller()
    controller.start()
    world.wait_until_settled("old", 0, 1)
    assert world.spec(0)["policy"]["namespaces"] == ["default"]
    assert not world.condition("old", "Enrolled")
    assert world.condition("old", "Looked")
    controller.proxy.forget()
    holds_for(
        lambda: not any(request.is_write for request in controller.proxy.asked),
        QUIET_SECONDS,
        "what is as it shall be is not written again",
    )
    assert world.story(0) == world.story(1) == [uid]
    world.assert_never_wrong()


def test_a_node_that_a_newer_version_speaks_of_is_left_alone(world: World) -> None:
    """After a downgrade nobody here knows what was meant, so nobody may undo it."""
    api = world.api
    mine = world.policy("mine", 0, 1, priority=1)
    with _kind_as_in_another_version(
        api,
        "ksmnodes",
        _with_another_state,
        "a state of a newer version is known",
        lambda: bool(_is_accepted(api, KSM_NODES, _ksm_node(world, 0, "mine", "Hibernating"))),
    ):
        made = api.create(KSM_NODES, _ksm_node(world, 0, "mine", "Hibernating"))
        controller = world.controller()
        controller.start()
        wait_until(lambda: world.story(1) == [mine], 30, "the other node is granted")
        other = world.policy("other", 0, 1, priority=2)
        world.delete("mine")
        wait_until(lambda: world.story(1) == [mine, "", other], 30, "the other one changes hands")
        wait_until(lambda: not world.exists("mine"), 30, "the deletion is not held up")
        left = world.ksm_node(0)
        assert left is not None
        assert left["spec"] == made["spec"]
        assert left["metadata"]["generation"] == made["metadata"]["generation"]
        assert world.story(0) == []
        found = api.get(world.path("other"))
        assert condition(found, "Ready")["status"] == "False", found["status"]
        # Somebody who knows what was meant puts it right.
        api.merge(f"{KSM_NODES}/{world.node(0)}", {"spec": {"desiredState": "Released"}})
        world.wait_until_settled("other", 0, 1)
    world.assert_never_wrong()
