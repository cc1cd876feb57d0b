import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest

from ksm_operator.controller.triggers import Trigger, pressing
from unit.controller.examples import granted, merging, policy, state

WEB = policy()
LONG = 60.0


def test_a_change_ends_the_wait() -> None:
    """Whoever edits a policy looks at it next."""
    trigger = Trigger()
    threading.Timer(0.05, trigger.changed).start()
    began = time.monotonic()
    trigger.wait(LONG, LONG)
    assert time.monotonic() - began < LONG / 2


def test_figures_wait_for_their_time() -> None:
    """Thousands of agents report figures; none of them is worth a reconcile of its own."""
    trigger = Trigger()
    trigger.figures_changed()
    began = time.monotonic()
    trigger.wait(LONG, 0.3)
    assert 0.3 <= time.monotonic() - began < LONG / 2


def test_figures_during_the_wait_shorten_it() -> None:
    """What comes while nothing is done must not wait for the next resync."""
    trigger = Trigger()
    threading.Timer(0.05, trigger.figures_changed).start()
    began = time.monotonic()
    trigger.wait(LONG, 0.3)
    assert time.monotonic() - began < LONG / 2


def test_what_was_waited_for_is_over() -> None:
    """One change is one reconcile."""
    trigger = Trigger()
    trigger.changed()
    trigger.wait(LONG, LONG)
    began = time.monotonic()
    trigger.wait(0.2, 0.2)
    assert time.monotonic() - began >= 0.2


def test_policies_are_read_once_per_change() -> None:
    """At the start, and whenever kopf tells of one."""
    trigger = Trigger()
    assert trigger.take_policies()
    assert not trigger.take_policies()
    trigger.policies_changed()
    assert trigger.take_policies()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, False),
        ({"memory": {"savedBytes": 1}}, False),
        ({"pods": {"matched": 40, "merging": 39}}, False),
        ({"owner": None}, True),
        ({"observedGeneration": 2}, True),
        ({"conditions": []}, True),
    ],
)
def test_only_what_is_acted_on_presses(change: Mapping[str, Any], expected: bool) -> None:  # noqa: FBT001 - a row of a table
    """A fleet of thousands of nodes says something about its figures several times a second."""
    before = state(spec=granted(WEB), status=merging(WEB))
    after = state(spec=granted(WEB), status={**merging(WEB), **change})
    assert pressing(before, after) is expected


def test_coming_and_going_presses() -> None:
    """A KSMNode that is not there can be asked nothing."""
    one = state(spec=granted(WEB), status=merging(WEB))
    assert pressing(None, one)
    assert pressing(one, None)


def test_a_closed_trigger_begins_nothing_anew() -> None:
    """A process that is told to end would wait for ever for who watches anew."""
    trigger = Trigger()
    trigger.restored()
    assert trigger.begin_anew()
    assert not trigger.anew.is_set()
    trigger.close()
    assert not trigger.begin_anew()
    assert trigger.anew.is_set()
