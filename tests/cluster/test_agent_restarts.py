"""One agent ends and another one begins: what it finds on record decides, whatever it is told."""

import json
import os
import signal
import threading
from dataclasses import dataclass
from typing import Any, Final

import pytest

from cluster.agent_program import AgentProgram
from cluster.api_faults import Request
from cluster.api_proxy import ApiProxy, Exchange
from cluster.command import REPOSITORY, holds_for, wait_until
from cluster.control_plane import ControlPlane
from cluster.own_node import OwnNode, Pod
from cluster.quiet_program import quiet
from ksm_operator.kernel import boot_id
from support import kernel

SECONDS: Final = 60
AS_EVER: Final = 1.5
"""Seconds in which an agent would do by far what it must not."""

RECORDS: Final = REPOSITORY / "tests" / "unit" / "agent" / "records"
PLAIN: Final = quiet(asks=False, merges_at_the_end=False)


def merge(pod: Pod) -> bool:
    """Whether all processes of a pod merge."""
    found = [kernel.merge_any(pid) for pid in pod.pids()]
    return bool(found) and all(found)


def do_not_merge(pod: Pod) -> bool:
    """Whether none of them does."""
    return not any(kernel.merge_any(pid) for pid in pod.pids())


def test_a_stop_keeps_what_is_merged_and_tells_its_zero_from_an_admins(
    agent_program: AgentProgram, own_node: OwnNode
) -> None:
    """An upgrade pauses ksmd for a moment; whoever stops it for good must be heard, even then."""
    agent, node = agent_program, own_node
    amber, _ = node.namespaces
    settings = kernel.settings()
    pod = node.run(amber, [PLAIN])
    generation = node.grant("amber", amber)
    agent.start()
    wait_until(lambda: merge(pod) and kernel.counter("run") == 1, SECONDS, "ksmd merges it")

    assert agent.stop() == 0
    assert kernel.counter("run") == 0
    assert merge(pod)
    agent.start()
    wait_until(lambda: kernel.counter("run") == 1, SECONDS, "the next one goes on")
    assert "processes enrolled" not in agent.said

    agent.kill()
    assert kernel.counter("run") == 1
    kernel.write_setting("run", 0)
    agent.start()
    wait_until(
        lambda: node.says("Degraded", generation)["reason"] == "ExternallyModified",
        SECONDS,
        "the agent says who stopped ksmd",
    )
    assert kernel.counter("run") == 0
    assert merge(pod)
    # Edited since: that is the administrator's word that it may go on.
    node.grant("amber", amber)
    wait_until(lambda: kernel.counter("run") == 1, SECONDS, "ksmd goes on")
    node.give_back(settings)


def test_another_owner_is_refused_whatever_the_api_says(
    agent_program: AgentProgram, own_node: OwnNode
) -> None:
    """A KSMNode made anew by hand, or an old one from a backup, must not join two domains."""
    agent, node = agent_program, own_node
    amber, blue = node.namespaces
    settings = kernel.settings()
    first, second = node.run(amber, [PLAIN]), node.run(blue, [PLAIN])
    node.grant("amber", amber)
    agent.start()
    wait_until(lambda: merge(first), SECONDS, "the first owner's merges")
    owner = agent.record["owner"]

    # Nobody can be released who stands still.
    (pid,) = first.pids()
    os.kill(pid, signal.SIGSTOP)
    node.forget()
    node.grant("blue", blue)
    holds_for(lambda: merge(first) and do_not_merge(second), AS_EVER, "the second one waits")
    agent.kill()
    agent.start()
    agent.wait_until_it_says("resumed", SECONDS)
    holds_for(lambda: merge(first) and do_not_merge(second), AS_EVER, "also after a restart")
    assert agent.record["owner"] == owner

    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: merge(second), SECONDS, "the second owner's merges")
    assert do_not_merge(first)
    assert agent.record["owner"] != owner
    node.give_back(settings)


def test_nobody_is_let_in_while_it_is_not_known_who_leaves(
    agent_program: AgentProgram, own_node: OwnNode, control_plane: ControlPlane
) -> None:
    """A policy that selects another namespace is another domain: its old pods are to go first.

    That the old namespace is not selected any more takes a question to the API server, which may
    be slow to answer.
    """
    agent, node = agent_program, own_node
    amber, blue = node.namespaces
    settings = kernel.settings()
    first, second = node.run(amber, [PLAIN]), node.run(blue, [PLAIN])
    node.grant("amber", amber)
    with ApiProxy(control_plane.api.server, control_plane.api.authority) as proxy:
        agent.server = proxy.url
        agent.start()
        wait_until(lambda: merge(first), SECONDS, "the old pod merges")
        asked = threading.Event()
        proxy.rule = lambda one: Unanswered(asked) if _asks_about(one, amber) else None
        node.grant("amber", blue)
        wait_until(lambda: any(_asks_about(one, amber) for one in proxy.asked), SECONDS, "asked")
        holds_for(lambda: merge(first) and do_not_merge(second), AS_EVER, "the new one waits")
        asked.set()
        wait_until(lambda: merge(second), SECONDS, "the new pod merges")
        assert do_not_merge(first)
        node.give_back(settings)


@dataclass(frozen=True)
class Unanswered:
    """A server that takes its time."""

    until: threading.Event

    def befall(self, exchange: Exchange) -> None:
        """Pass it on when the time has come."""
        exchange.wait_for(self.until)
        exchange.relay()


def _asks_about(request: Request, namespace: str) -> bool:
    selector = request.query.get("labelSelector", "")
    return request.is_list and selector == f"kubernetes.io/metadata.name={namespace}"


def filled_in(version: int, node: OwnNode, pod: Pod, own: Pod) -> dict[str, Any]:
    """A record as an agent of an earlier version left it, of processes that live here and now."""
    record: dict[str, Any] = json.loads((RECORDS / f"version-{version}.json").read_text())
    assert record["version"] == version
    namespace, uid = pod.namespace, node.uid("amber")
    record |= {"bootID": boot_id(), "owner": uid}
    record["told"]["owner"]["uid"] = uid
    record["told"]["policy"]["namespaces"] = [namespace]
    for name, saved in record["baseline"].items():
        saved["before"] = kernel.counter(name)
    for entry, one, where in (
        (record["containers"][0], pod, "enrolled"),
        (dict(record["containers"][0]), own, "own"),
    ):
        entry |= {"enrolled": [], "own": [], "podUID": one.uid, "path": node.container(one)}
        entry[where] = [[pid, kernel.start_time(pid)] for pid in one.pids()]
        if "marks" in entry:
            entry["marks"] = []
        if where == "own":
            record["containers"].append(entry)
    return record


@pytest.mark.parametrize("version", [1, 2])
def test_an_upgrade_loses_nothing(
    version: int, agent_program: AgentProgram, own_node: OwnNode
) -> None:
    """What an earlier version enrolled goes on merging untouched, and comes back in the end."""
    agent, node = agent_program, own_node
    amber, _ = node.namespaces
    settings = kernel.settings()
    # They merge as they would by the agent before: nothing tells, but its record.
    pod = node.run(amber, [quiet(asks=True, merges_at_the_end=False)] * 2)
    own = node.run(amber, [quiet(asks=True, merges_at_the_end=True)])
    wait_until(lambda: merge(pod) and merge(own), SECONDS, "all of them merge")
    record = filled_in(version, node, pod, own)
    for name, saved in record["baseline"].items():
        kernel.write_setting(name, saved["written"])
    agent.state.mkdir()
    (agent.state / "state.json").write_text(json.dumps(record))
    generation = node.grant("amber", amber)

    agent.start()
    wait_until(lambda: node.says("Ready", generation)["reason"] == "Merging", SECONDS, "it goes on")
    assert "resumed" in agent.said
    assert "processes enrolled" not in agent.said
    assert "process released" not in agent.said
    assert merge(pod)
    assert merge(own)
    assert kernel.counter("run") == 1
    now = {one["path"]: one for one in agent.record["containers"]}
    for one in record["containers"]:
        assert sorted(now[one["path"]]["enrolled"]) == sorted(one["enrolled"])
        assert now[one["path"]]["own"] == one["own"]
    node.give_back(settings)


@pytest.mark.parametrize("text", ['{"version": 99}', '{"version": 2, "boo'], ids=["newer", "torn"])
def test_a_record_that_is_not_understood_stops_the_agent(
    text: str, agent_program: AgentProgram, own_node: OwnNode
) -> None:
    """Somebody may be enrolled of whom it tells: nobody else is, and a person reads why."""
    agent, node = agent_program, own_node
    settings = kernel.settings()
    pod = node.run(node.namespaces[0], [PLAIN])
    node.grant("amber", node.namespaces[0])
    agent.state.mkdir()
    (agent.state / "state.json").write_text(text)
    agent.start()
    wait_until(agent.has_ended, SECONDS, "it ends")
    assert "state.json cannot be understood" in agent.said
    assert "Run the agent version that wrote it, or reboot the node" in agent.said
    assert (agent.state / "state.json").read_text() == text
    assert do_not_merge(pod)
    assert kernel.settings() == settings


def test_after_a_reboot_the_record_is_of_others(
    agent_program: AgentProgram, own_node: OwnNode
) -> None:
    """Its pids are other processes', and ksmd's values are the kernel's: the node begins anew."""
    agent, node = agent_program, own_node
    amber, blue = node.namespaces
    settings = kernel.settings()
    stranger = node.run(amber, [quiet(asks=True, merges_at_the_end=True)])
    wait_until(lambda: merge(stranger), SECONDS, "one merges by itself")
    pod = node.run(blue, [PLAIN])
    record = filled_in(2, node, stranger, stranger)
    agent.state.mkdir()
    (agent.state / "state.json").write_text(json.dumps(record | {"bootID": "before"}))
    node.grant("blue", blue)
    agent.start()
    wait_until(lambda: merge(pod), SECONDS, "another owner's are enrolled at once")
    assert agent.record["owner"] == node.uid("blue")
    assert merge(stranger)
    node.give_back(settings)
