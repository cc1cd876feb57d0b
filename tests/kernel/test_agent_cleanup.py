"""Ksmd counts pages of the dead as shared: that must not stand in the way of a policy's values."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kernel.agents import Agents
from kernel.conftest import Holders, Target, wait_until
from kernel.test_release import merge
from ksm_operator.agent.exec_trial import ExecTrial
from ksm_operator.agent.host import Host, boot_time
from ksm_operator.agent.obey import Obedience
from ksm_operator.agent.wire import Ksmd, Owner
from ksm_operator.kernel import Helper, Hierarchy, KernelFeatures, KsmSysfs, Tracer
from support import kernel

SHARING = 77
OWNER = Owner("p", "uid", 1)


Shared = tuple[Target, Target]


@pytest.fixture
def shared(tracer: Tracer, holder: Holders, ksm_settings: dict[str, bytes]) -> Shared:
    """Two processes that share pages, and a ksmd that stands still."""
    one, two = holder(4, None, "small"), holder(4, None, "small")
    quick = {"pages_to_scan": 20000, "sleep_millisecs": 5, "run": 1}
    for name, value in quick.items():
        kernel.write_setting(name, value)
    merge(tracer, one, two, mebibytes=4)
    kernel.write_setting("run", 0)
    for name in ("pages_to_scan", "sleep_millisecs"):
        kernel.write_setting(name, ksm_settings[name].decode().strip())
    return one, two


@pytest.fixture
def hands(hierarchy: Hierarchy, features: KernelFeatures, shared: Shared) -> Iterator[Obedience]:
    """An agent's hands where pages are shared already; they give the node back at the end."""
    before = kernel.settings()
    helper = Helper()
    made = Agents(hierarchy, features).hands(helper)
    yield made
    for one in shared:
        one.kill()
    wait_until(lambda: made.give_back(0, lambda: False), "the node is given back")
    helper.close()
    assert kernel.settings() == before


def test_the_dead_do_not_stand_in_the_way(hands: Obedience, shared: Shared) -> None:
    """A policy's limit on sharing counts from its first page on, whoever merged here before."""
    for one in shared:
        one.kill()
    assert kernel.counter("pages_shared")
    asked = Ksmd(max_page_sharing=SHARING)
    assert hands.accept(OWNER, asked, lambda _: "")
    assert hands.troubles.pending == ("max_page_sharing",)
    wait_until(lambda: hands.make_way(asked, lambda: False), "the way is made")
    assert kernel.counter("max_page_sharing") == SHARING
    assert not hands.troubles.pending


def test_pages_of_others_are_left_shared(hands: Obedience) -> None:
    """Whose they are is asked first: ksmd is not started for it while others merge."""
    asked = Ksmd(max_page_sharing=SHARING)
    assert hands.accept(OWNER, asked, lambda _: "")
    assert not hands.make_way(asked, lambda: None)
    assert hands.make_way(asked, lambda: True)
    assert kernel.counter("run") == 0
    assert hands.troubles.pending == ("max_page_sharing",)


def children_of_trials() -> list[int]:
    """Processes that this one started to see what ksmd does with them."""
    mine = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
    pids = [int(pid) for each in mine for pid in each]
    return [pid for pid in pids if b"probe_child" in _command(pid)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_trial_ends_when_it_is_told_to(
    ksmd: None, hierarchy: Hierarchy, features: KernelFeatures
) -> None:
    """Its children share pages for as long as they live, which nobody can wait for."""
    if not features.exec_inherits:
        pytest.skip("this kernel drops merging on exec: Linux 6.7 or later is needed")
    unknown = replace(features, exec_merges=None)
    host = Host(KsmSysfs(), hierarchy, unknown, Helper(), boot_time(), None)
    trial = ExecTrial(host)
    kernel.write_setting("sleep_millisecs", 1000)
    kernel.write_setting("pages_to_scan", 1)
    trial.go_on()
    wait_until(lambda: len(children_of_trials()) == 2, "the trial has its children")
    trial.stop()
    wait_until(lambda: not children_of_trials(), "the children are gone")
    assert host.features.exec_merges is None

    kernel.write_setting("sleep_millisecs", 5)
    kernel.write_setting("pages_to_scan", 20000)

    def is_known() -> bool:
        trial.go_on()
        return host.features.exec_merges is not None

    wait_until(is_known, "the next trial's answer")
