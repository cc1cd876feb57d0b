"""An API server that fails, a network that does: nothing is lost, nothing done by mistake."""

from collections import Counter
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Final

from cluster.api_faults import Answer, CutInLine, Delay, Fault, Gone, Request, Rule, Silence, passes
from cluster.api_proxy import ApiProxy
from cluster.command import holds_for, wait_until
from cluster.controllers import LOST
from cluster.world import World

OURS: Final = ("ksmnodes", "namespaces", "nodes")
"""Kinds that the controller watches itself; policies are watched by kopf."""
STORM_SECONDS: Final = 3.0
MOST_LISTS: Final = 9
"""In that time, of one kind: pauses that begin at a quarter of a second and double."""


def _rule(fault: Fault, which: Callable[[Request], bool]) -> Rule:
    return lambda request: fault if which(request) else None


def _all_but_watches(request: Request) -> bool:
    return not request.is_watch


def _writes(request: Request) -> bool:
    return request.is_write


def _watches(request: Request) -> bool:
    return request.is_watch and request.path.endswith((*OURS, "ksmpolicies"))


def _our_watches(request: Request) -> bool:
    return request.is_watch and request.path.endswith(OURS)


def _answers_to_kopf(proxy: ApiProxy) -> set[int]:
    """How watches of policies were answered."""
    return {
        one.status
        for one in proxy.done
        if one.request.is_watch and one.request.path.endswith("ksmpolicies")
    }


def _lists_seldom(proxy: ApiProxy) -> bool:
    lists = _kinds(proxy.asked, lambda request: request.is_list)
    return all(lists[kind] <= MOST_LISTS for kind in OURS)


def _met(proxy: ApiProxy, code: int) -> int:
    """How many requests were answered so, those for the Lease not counted."""
    return sum(one.status == code and not one.request.is_lease for one in proxy.done)


def _kinds(requests: Iterable[Request], which: Callable[[Request], bool]) -> Counter[str]:
    """How often each kind was asked for in some way."""
    return Counter(one.path.rpartition("/")[2] for one in requests if which(one))


def test_what_fails_is_tried_again(world: World) -> None:
    """An overloaded API server answers anything, after anything from no time to seconds."""
    controller = world.controller()
    proxy = controller.proxy
    amber, blue = world.policy("amber", 0, 1), world.policy("blue", 0, 1)
    world.policy("idle", 5)
    controller.start()
    world.wait_until_settled("amber", 0, 1)
    world.wait_until_settled("idle", 5)
    for code, fault, which, winner in (
        (429, Answer(429, "TooManyRequests", {"Retry-After": "1"}), _all_but_watches, "blue"),
        (500, Answer(500, "InternalError"), _all_but_watches, "amber"),
        (409, Answer(409, "Conflict"), _writes, "blue"),
        (200, Delay(0.7), _all_but_watches, "amber"),
    ):
        proxy.forget()
        proxy.rule = _rule(fault, which)
        world.prefer(winner)
        wait_until(lambda code=code: _met(proxy, code) >= 2, 30, f"{code} twice")  # type: ignore[misc]
        if code != HTTPStatus.OK:  # a slow server stays slow
            proxy.rule = passes
        world.wait_until_settled(winner, 0, 1)
    for number in (0, 1):
        assert world.story(number) == [amber, "", blue, "", amber, "", blue, "", amber]
    world.assert_never_wrong("idle")


def test_watches_that_break_miss_nothing(world: World) -> None:
    """Connections end anywhere, servers forget; a controller that is deaf since does harm later."""
    controller = world.controller()
    proxy = controller.proxy
    amber, blue = world.policy("amber", 0), world.policy("blue", 0)
    world.policy("idle", 5)
    controller.start()
    world.wait_until_settled("amber", 0)
    world.wait_until_settled("idle", 5)
    for fault, code, winner in (
        (CutInLine(), 200, "blue"),
        (Answer(500, "InternalError"), 500, "amber"),
        (Answer(403, "Forbidden"), 403, "blue"),
        (Gone(), 200, "amber"),
    ):
        proxy.forget()
        proxy.rule = _rule(fault, _watches)
        proxy.cut_watches()
        world.prefer(winner)
        wait_until(
            lambda code=code: code in _answers_to_kopf(proxy),  # type: ignore[misc]
            30,
            f"kopf meets {fault}",
        )
        if isinstance(fault, Gone):
            holds_for(lambda: _lists_seldom(proxy), STORM_SECONDS, "it does not list in a storm")
        proxy.rule = passes
        world.wait_until_settled(winner, 0)
    assert world.story(0) == [amber, "", blue, "", amber, "", blue, "", amber]
    world.assert_never_wrong("idle")


def test_a_silent_watch_is_given_up(world: World) -> None:
    """A connection whose other end is gone says nothing for ever, and so did no agent."""
    controller = world.controller()
    proxy = controller.proxy
    controller.silence = 3.0
    amber, blue = world.policy("amber", 0), world.policy("blue", 0)
    proxy.rule = _rule(Silence(), _our_watches)
    controller.start()
    controller.wait_until_it_works()
    wait_until(
        lambda: min(_kinds(proxy.asked, _our_watches)[kind] for kind in OURS) > 1,
        30,
        "every silent watch is given up",
    )
    proxy.rule = passes
    world.wait_until_settled("amber", 0)
    world.prefer("blue")
    world.wait_until_settled("blue", 0)
    assert world.story(0) == [amber, "", blue]
    world.assert_never_wrong()


def test_an_api_server_that_is_away_undoes_nothing(world: World) -> None:
    """Who cannot renew the Lease must stop before another may begin, and begin again by himself."""
    controller = world.controller()
    amber, blue = world.policy("amber", 0, 1), world.policy("blue", 0, 1)
    world.policy("idle", 5)
    controller.start()
    world.wait_until_settled("amber", 0, 1)
    world.wait_until_settled("idle", 5)
    world.prefer("blue")
    world.control_plane.kill()
    try:
        assert controller.wait_for_exit() == 1
        assert LOST in controller.said
        # As the kubelet does.
        controller.start()
        controller.wait_until_it_says("the CRDs cannot be read yet")
    finally:
        world.control_plane.start()
    world.wait_until_settled("blue", 0, 1)
    assert world.story(0) == world.story(1) == [amber, "", blue]
    world.assert_never_wrong("idle")
